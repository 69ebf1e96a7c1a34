//! The few things every row may use.

pub mod clock;
pub mod metrics;
pub mod telemetry;
pub mod text;
