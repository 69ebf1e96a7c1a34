//! `bench range`: reads of a key or a range.

use super::Failure;
use super::Form;
use super::Global;
use super::load;
use super::load::Plan;
use crate::client::Client;
use crate::client::Error;
use crate::client::prefix_end;
use crate::proto::etcdserverpb::RangeRequest;

const PAGE: i64 = 10_000;

/// Benchmark range
#[derive(clap::Args)]
pub struct Range {
    key: String,
    end: Option<String>,
    /// Maximum range requests per second (0 is no limit)
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Total number of range requests
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// Linearizable(l) or Serializable(s)
    #[arg(long, default_value = "l", value_parser = ["l", "s"])]
    consistency: String,
    /// Maximum number of results to return from range request (0 is no limit)
    #[arg(long, default_value_t = 0)]
    limit: i64,
    /// Only returns the count of keys
    #[arg(long)]
    count_only: bool,
    /// Only returns the keys
    #[arg(long, conflicts_with = "count_only")]
    keys_only: bool,
    /// Read with RangeStream instead of Range
    #[arg(long)]
    stream: bool,
    /// Read in pages of 10000 keys
    #[arg(long, conflicts_with_all = ["limit", "stream"])]
    paginate: bool,
    /// Read every key that begins with the given one
    #[arg(long, conflicts_with = "end")]
    prefix: bool,
}

/// Says, as etcd's tool does, which kind of read is being measured.
pub(super) fn announce(consistency: &str, form: Form) {
    if form == Form::Simple {
        let kind = if consistency == "s" {
            "serializable"
        } else {
            "linearizable"
        };
        println!("bench with {kind} range");
    }
}

impl Range {
    /// The bounds of what is read. Every key begins with the empty one, which no request may name.
    fn bounds(&self) -> (Vec<u8>, Vec<u8>) {
        let key = self.key.clone().into_bytes();
        match &self.end {
            Some(end) => (key, end.clone().into_bytes()),
            None if self.prefix && key.is_empty() => (vec![0], vec![0]),
            None if self.prefix => {
                let end = prefix_end(&key);
                (key, end)
            }
            None => (key, Vec::new()),
        }
    }

    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let clients = global.connect().await?;
        announce(&self.consistency, global.write_out);
        let (key, range_end) = self.bounds();
        let request = RangeRequest {
            key,
            range_end,
            limit: if self.paginate { PAGE } else { self.limit },
            serializable: self.consistency == "s",
            count_only: self.count_only,
            keys_only: self.keys_only,
            ..Default::default()
        };
        let plan = Plan {
            total: self.total,
            rate: self.rate,
        };
        let report = load::run(&clients, plan, global.sample, |client, _| {
            let request = request.clone();
            async move {
                if self.stream {
                    client.kv().range_stream(request).await.map(drop)
                } else if self.paginate {
                    pages(client, request).await
                } else {
                    client.kv().range(request).await.map(drop)
                }
            }
        })
        .await;
        report.print("range", global);
        Ok(())
    }
}

/// Reads a whole range page by page at the revision of the first.
async fn pages(client: Client, mut request: RangeRequest) -> Result<(), Error> {
    loop {
        let reply = client.kv().range(request.clone()).await?;
        let Some(last) = reply.kvs.last().filter(|_| reply.more) else {
            return Ok(());
        };
        request.key = [&last.key[..], &[0]].concat();
        if request.revision == 0 {
            request.revision = reply.header.map_or(0, |header| header.revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        range: Range,
    }

    #[test]
    fn bounds_follow_the_words() {
        let cases: [(&[&str], &[u8], &[u8]); 4] = [
            (&["a"], b"a", b""),
            (&["a", "c"], b"a", b"c"),
            (&["a", "--prefix"], b"a", b"b"),
            (&["", "--prefix"], b"\0", b"\0"),
        ];
        for (words, key, end) in cases {
            let line = Line::try_parse_from(["range"].iter().chain(words));
            let (start, stop) = line
                .unwrap_or_else(|error| panic!("{error}"))
                .range
                .bounds();
            assert_eq!((&start[..], &stop[..]), (key, end), "{words:?}");
        }
    }
}
