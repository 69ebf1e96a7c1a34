//! Consensus: the only place that knows openraft.
//!
//! [`Node`] is the handle everybody above uses: propose, read, look. Below it, [`entry`] is what the log
//! carries, `log_store` is openraft's log on the write-ahead log, `state_machine` its state machine on the
//! machine and its tables, `network` what members say to each other, `bootstrap` how a member starts.
//! What changed is read from [`History`].

mod bootstrap;
mod checkpoint;
mod config;
mod entry;
mod fatal;
mod history;
mod log_store;
mod network;
mod node;
mod proposer;
mod reads;
mod standing;
mod state_machine;
#[cfg(test)]
mod tests;

pub use bootstrap::Identity;
pub use bootstrap::Initial;
pub use bootstrap::InitialState;
pub use bootstrap::check_url;
pub use bootstrap::parse_initial_cluster;
pub use config::Timing;
pub use fatal::Fatal;
pub use history::Behind;
pub use history::Change;
pub use history::Cursor;
pub use history::History;
pub use network::Alone;
pub use network::Connect;
pub use node::Caller;
pub use node::Environment;
pub use node::Node;
pub use node::Options;
pub use node::Status;
pub use standing::Leadership;
pub use state_machine::Applied;
