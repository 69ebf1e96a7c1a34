//! What the operating system says of this process: open files, memory, processor time, signals.

use std::fs;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::util::metrics;

/// Keeps the allocator's memory in small pages: of huge ones, all is resident as soon as a part is used, and
/// clearing what nobody uses took a sixth of the time of a put.
pub fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(error = %error, "huge pages stay as they are");
    }
}

/// Open files, and how many may be open.
pub fn files() -> (u64, u64) {
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let limit = fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find(|line| line.starts_with("Max open files"))?;
            line.split_whitespace().nth(3)?.parse().ok()
        })
        .unwrap_or(u64::MAX);
    (open, limit)
}

/// Sets the gauges of the process to what they are now.
pub fn measure() {
    let (open, limit) = files();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    for gauge in [&metrics::PROCESS_OPEN_FDS, &metrics::FD_USED] {
        gauge.set(open as i64);
    }
    for gauge in [&metrics::PROCESS_MAX_FDS, &metrics::FD_LIMIT] {
        gauge.set(limit);
    }
    if let Some(stat) = Stat::read() {
        metrics::PROCESS_CPU.set(stat.cpu_seconds);
        metrics::PROCESS_VIRTUAL.set(stat.virtual_bytes);
        metrics::PROCESS_RESIDENT.set(stat.resident_bytes);
        metrics::PROCESS_START.set(stat.start_seconds);
    }
}

struct Stat {
    cpu_seconds: f64,
    virtual_bytes: i64,
    resident_bytes: i64,
    start_seconds: f64,
}

impl Stat {
    fn read() -> Option<Stat> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let page = rustix::param::page_size() as i64;
        let tick = rustix::param::clock_ticks_per_second() as f64;
        // The name in parentheses may hold blanks; the fields after it are numbers.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        Some(Stat {
            cpu_seconds: (field(14)? + field(15)?) as f64 / tick,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page,
            start_seconds: now.as_secs_f64() - uptime + field(22)? as f64 / tick,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_can_be_measured() {
        let (open, limit) = files();
        assert!(open > 0 && limit >= open);
        let stat = Stat::read().expect("a readable /proc");
        assert!(stat.resident_bytes > 1 << 16 && stat.virtual_bytes >= stat.resident_bytes);
        assert!(stat.start_seconds > 1.5e9);
    }
}
