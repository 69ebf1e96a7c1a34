//! What was measured, and how it is printed: etcd's form, or JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use hdrhistogram::Histogram;
use serde_json::json;

use super::Form;
use super::Global;
use crate::util::text;

const PERCENTILES: [f64; 8] = [10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9];
const BUCKETS: usize = 10;
const BAR: usize = 40;
const NANOS: f64 = 1e9;

/// What the clients of a run measure, all in one: a histogram takes a hundred kilobytes or more, and a
/// thousand of them slow down the client that measures.
pub struct Recorder {
    start: Instant,
    latencies: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    seconds: Option<BTreeMap<u64, Second>>,
}

/// The requests that ended within one second of the run.
#[derive(Clone, Copy)]
struct Second {
    min: u64,
    max: u64,
    sum: u64,
    count: u64,
}

impl Recorder {
    pub fn new(start: Instant, sample: bool) -> Recorder {
        Recorder {
            start,
            latencies: Histogram::new(3).expect("three digits are allowed"),
            errors: BTreeMap::new(),
            seconds: sample.then(BTreeMap::new),
        }
    }

    /// Counts a request that has just ended well and was due at `due`.
    pub fn success(&mut self, due: Instant) {
        self.latency(due.elapsed());
    }

    pub fn latency(&mut self, latency: Duration) {
        let nanos = (latency.as_nanos() as u64).max(1);
        self.latencies
            .record(nanos)
            .expect("the histogram grows as it has to");
        if let Some(seconds) = &mut self.seconds {
            let second = self.start.elapsed().as_secs();
            let entry = seconds.entry(second).or_insert(Second {
                min: nanos,
                max: nanos,
                sum: 0,
                count: 0,
            });
            entry.min = entry.min.min(nanos);
            entry.max = entry.max.max(nanos);
            entry.sum += nanos;
            entry.count += 1;
        }
    }

    pub fn failure(&mut self, message: &str) {
        *self.errors.entry(message.to_string()).or_default() += 1;
    }

    /// What was measured in a run that took `elapsed`.
    pub fn report(self, elapsed: Duration) -> Report {
        Report {
            elapsed,
            latencies: self.latencies,
            errors: self.errors,
            seconds: self.seconds,
        }
    }
}

/// What the clients of a run measured.
pub struct Report {
    elapsed: Duration,
    latencies: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    seconds: Option<BTreeMap<u64, Second>>,
}

impl Report {
    /// Prints the report under `name` in the form that was asked for.
    pub fn print(&self, name: &str, global: &Global) {
        match global.write_out {
            Form::Simple => print!("{}", self.simple(global.precise)),
            Form::Json => println!("{}", self.json(name)),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    pub fn requests(&self) -> u64 {
        self.latencies.len()
    }

    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency at or below which `percent` of the requests ended, if there are enough of them to say.
    fn percentile(&self, percent: f64) -> Option<u64> {
        let count = self.latencies.len();
        let index = (percent * count as f64 / 100.0).ceil() as u64;
        (index < count).then(|| {
            self.latencies
                .value_at_quantile((index + 1) as f64 / count as f64)
        })
    }

    fn json(&self, name: &str) -> serde_json::Value {
        let millis = |nanos: f64| nanos / 1e6;
        let mut latency = serde_json::Map::new();
        if !self.latencies.is_empty() {
            latency.insert("min".into(), json!(millis(self.latencies.min() as f64)));
            latency.insert("mean".into(), json!(millis(self.latencies.mean())));
            latency.insert("stddev".into(), json!(millis(self.latencies.stdev())));
            for percent in [50.0, 90.0, 95.0, 99.0, 99.9, 99.99] {
                let value = self.latencies.value_at_percentile(percent);
                latency.insert(format!("p{percent}"), json!(millis(value as f64)));
            }
            latency.insert("max".into(), json!(millis(self.latencies.max() as f64)));
        }
        json!({
            "name": name,
            "requests": self.latencies.len(),
            "errors": self.errors,
            "seconds": self.elapsed.as_secs_f64(),
            "rate": self.rate(),
            "latency_ms": latency,
        })
    }

    fn simple(&self, precise: bool) -> String {
        let mut out = String::new();
        if !self.latencies.is_empty() {
            self.summary(&mut out, precise);
            self.histogram(&mut out, precise);
            self.distribution(&mut out, precise);
            self.samples(&mut out);
        }
        if !self.errors.is_empty() {
            out.push_str("\nError distribution:\n");
            for (message, count) in &self.errors {
                let _ = writeln!(out, "  [{count}]\t{message}");
            }
        }
        out
    }

    fn summary(&self, out: &mut String, precise: bool) {
        let seconds = |nanos: f64| number(nanos / NANOS, precise);
        out.push_str("\nSummary:\n");
        let rows = [
            ("Total", number(self.elapsed.as_secs_f64(), precise)),
            ("Slowest", seconds(self.latencies.max() as f64)),
            ("Fastest", seconds(self.latencies.min() as f64)),
            ("Average", seconds(self.latencies.mean())),
            ("Stddev", seconds(self.latencies.stdev())),
        ];
        for (label, value) in rows {
            let _ = writeln!(out, "  {label}:\t{value} secs.");
        }
        let _ = writeln!(out, "  Requests/sec:\t{}", number(self.rate(), precise));
    }

    fn histogram(&self, out: &mut String, precise: bool) {
        let (fastest, slowest) = (self.latencies.min(), self.latencies.max());
        let step = (slowest - fastest) as f64 / BUCKETS as f64;
        let bounds: Vec<u64> = (0..BUCKETS)
            .map(|n| fastest + (n as f64 * step) as u64)
            .chain([slowest])
            .collect();
        let mut counts = vec![0; bounds.len()];
        for bucket in self.latencies.iter_recorded() {
            let value = bucket.value_iterated_to().clamp(fastest, slowest);
            let at = bounds.partition_point(|bound| *bound < value).min(BUCKETS);
            counts[at] += bucket.count_at_value();
        }
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        out.push_str("\nResponse time histogram:\n");
        for (bound, count) in bounds.iter().zip(counts) {
            let bar = "∎".repeat((count as usize * BAR) / most as usize);
            let _ = writeln!(
                out,
                "  {} [{count}]\t|{bar}",
                number(*bound as f64 / NANOS, precise)
            );
        }
    }

    fn distribution(&self, out: &mut String, precise: bool) {
        out.push_str("\nLatency distribution:\n");
        for percent in PERCENTILES {
            if let Some(value) = self.percentile(percent) {
                let _ = writeln!(
                    out,
                    "  {percent}% in {} secs.",
                    number(value as f64 / NANOS, precise)
                );
            }
        }
    }

    fn samples(&self, out: &mut String) {
        let Some(seconds) = &self.seconds else { return };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let began = now.saturating_sub(self.elapsed.as_secs());
        out.push_str("\nSample in one second (unix latency throughput):\n");
        out.push_str("UNIX-SECOND,MIN-LATENCY-MS,AVG-LATENCY-MS,MAX-LATENCY-MS,AVG-THROUGHPUT\n");
        let form = |nanos: u64| text::format_duration(Duration::from_nanos(nanos));
        for (second, part) in seconds {
            let (min, mean, max) = (form(part.min), form(part.sum / part.count), form(part.max));
            let _ = writeln!(out, "{},{min},{mean},{max},{}", began + second, part.count);
        }
    }
}

fn number(value: f64, precise: bool) -> String {
    if precise {
        format!("{value}")
    } else {
        format!("{value:.4}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(millis: impl IntoIterator<Item = u64>, errors: &[&str]) -> Report {
        let mut recorder = Recorder::new(Instant::now(), false);
        for latency in millis {
            recorder.latency(Duration::from_millis(latency));
        }
        for message in errors {
            recorder.failure(message);
        }
        recorder.report(Duration::from_secs(2))
    }

    #[test]
    fn summary_counts_requests_a_second_and_not_errors() {
        let text = report(1..=100, &["no", "no", "never"]).simple(false);
        assert!(
            text.starts_with("\nSummary:\n  Total:\t2.0000 secs.\n"),
            "{text}"
        );
        assert!(text.contains("  Requests/sec:\t50.0000\n"), "{text}");
        assert!(
            text.ends_with("\nError distribution:\n  [1]\tnever\n  [2]\tno\n"),
            "{text}"
        );
    }

    #[test]
    fn latencies_are_kept_to_three_digits() {
        let report = report(1..=1000, &[]);
        let median = report.percentile(50.0).expect("enough requests") as f64 / 1e6;
        assert!((median - 501.0).abs() < 1.0, "{median} ms");
        assert!(
            report.simple(false).contains("  Slowest:\t1.0"),
            "{}",
            report.simple(false)
        );
    }

    #[test]
    fn histogram_holds_every_request_once() {
        let text = report(1..=1000, &[]).simple(false);
        let counted: u64 = text
            .lines()
            .filter_map(|line| {
                line.split_once('[')?
                    .1
                    .split_once(']')?
                    .0
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        assert_eq!(counted, 1000, "{text}");
    }

    #[test]
    fn percentiles_need_enough_requests() {
        let cases = [
            (10, 90.0, true),
            (10, 99.0, false),
            (101, 99.0, true),
            (500, 99.9, false),
            (1001, 99.9, true),
        ];
        for (count, percent, known) in cases {
            let report = report(1..=count, &[]);
            assert_eq!(
                report.percentile(percent).is_some(),
                known,
                "{percent} of {count}"
            );
        }
    }

    #[test]
    fn only_errors_print_only_errors() {
        assert_eq!(
            report([], &["gone"]).simple(false),
            "\nError distribution:\n  [1]\tgone\n"
        );
    }
}
