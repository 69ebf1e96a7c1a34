//! Members and their attributes, alarms, cluster version. Pure.

/// Everything the cluster knows of itself.
#[derive(Default)]
pub struct Cluster {}
