//! openraft's settings, derived from etcd's flags. The defaults of those named here would be wrong for us.

use std::time::Duration;

use openraft::Config;
use openraft::SnapshotPolicy;
use openraft::StepDownPolicy;

use crate::error::Fault;

/// When members hear from each other, and when they stop waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat: Duration,
    pub election: Duration,
    /// Ask whether an election could be won before disturbing the others with one.
    pub pre_vote: bool,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(1000),
            pre_vote: true,
        }
    }
}

impl Timing {
    /// Election time-out and heartbeat interval in milliseconds.
    pub fn millis(&self) -> (u64, u64) {
        let millis = |duration: Duration| duration.as_millis() as u64;
        (millis(self.election), millis(self.heartbeat))
    }

    /// How long a request may take: etcd's `ReqTimeout`.
    pub fn request(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election
    }
}

/// The settings openraft runs with. `keep` entries stay in the log below a snapshot.
pub fn config(timing: &Timing, keep: u64) -> Result<Config, Fault> {
    let (election, heartbeat) = timing.millis();
    let config = Config {
        cluster_name: "kv".into(),
        heartbeat_interval: heartbeat,
        // A follower campaigns in [max + min, 2 * max), etcd's in [max, 2 * max).
        election_timeout_min: (election / 2).max(2 * heartbeat),
        election_timeout_max: election,
        enable_pre_vote: Some(timing.pre_vote),
        // A restarted leader that went on in its old term could serve reads that miss answered writes.
        enable_leader_restore: Some(false),
        // Bytes are bounded by the log reader.
        max_payload_entries: 1024,
        max_append_entries: Some(4096),
        // The node asks for snapshots itself, after the engine has flushed.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: keep,
        purge_batch_size: 256,
        api_batch_linger_ms: 0,
        backoff: "50ms 100ms 200ms ..1s".into(),
        removed_leader_step_down: StepDownPolicy::After(150),
        allow_log_reversion: None,
        ..Config::default()
    };
    let refuse = |error: openraft::ConfigError| {
        Fault::Refused(format!(
            "--heartbeat-interval={heartbeat} and --election-timeout={election} do not go together: {error}"
        ))
    };
    config.validate().map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_must_not_be_left_at_their_defaults() {
        let config = config(&Timing::default(), 5000).expect("etcd's defaults");
        assert_eq!(config.heartbeat_interval, 100);
        assert_eq!(config.election_timeout_min, 500);
        assert_eq!(config.election_timeout_max, 1000);
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.max_payload_entries, 1024);
        assert_eq!(config.max_append_entries, Some(4096));
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        assert_eq!(config.max_in_snapshot_log_to_keep, 5000);
        assert_eq!(config.purge_batch_size, 256);
        assert_eq!(config.api_batch_linger_ms, 0);
        assert_eq!(config.backoff, "50ms 100ms 200ms ..1s");
        assert_eq!(config.removed_leader_step_down, StepDownPolicy::After(150));
        assert_eq!(config.allow_log_reversion, None);
        assert!(config.enable_tick && config.enable_elect && config.enable_heartbeat);
    }

    #[test]
    fn elections_follow_the_flags() {
        let cases = [
            // heartbeat, election, min; None: refused
            (100, 1000, Some(500)),
            (10, 50, Some(25)),
            (100, 500, Some(250)),
            (300, 1500, Some(750)),
            (100, 300, Some(200)),
            (100, 200, None),
            (500, 400, None),
        ];
        for (heartbeat, election, min) in cases {
            let timing = Timing {
                heartbeat: Duration::from_millis(heartbeat),
                election: Duration::from_millis(election),
                pre_vote: false,
            };
            let config = config(&timing, 10);
            let got = config.as_ref().ok().map(|it| it.election_timeout_min);
            assert_eq!(got, min, "{heartbeat} {election}");
            if let Ok(config) = config {
                assert_eq!(config.enable_pre_vote, Some(false));
                assert_eq!(config.election_timeout_max, election);
            }
        }
    }

    #[test]
    fn a_request_may_take_five_seconds_and_two_elections() {
        assert_eq!(Timing::default().request(), Duration::from_secs(7));
    }
}
