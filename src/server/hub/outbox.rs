//! The bounded queue between the hub and one watch stream.
//!
//! The hub pushes while there is room. Once there is none, the stream's watchers fall behind, and the
//! stream asks to be fed again when it has sent nearly everything it had.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Status;

use super::frame::Frame;
use crate::util::metrics;

/// Responses that may wait, and the bytes they may have. One response is taken whatever its size.
const FRAMES: usize = 1024;
const BYTES: usize = 1 << 20;
/// A queue this short is about to run dry: the stream may be given history.
const LIGHT_FRAMES: usize = 16;
const LIGHT_BYTES: usize = 64 << 10;
/// What a frame costs beside its bytes.
const FRAME_OVERHEAD: usize = 128;

/// Streams that have room again.
#[derive(Default)]
pub struct Drained {
    streams: Mutex<Vec<u64>>,
    pub notify: Notify,
    /// Bytes that wait in all outboxes together.
    waiting: AtomicUsize,
}

impl Drained {
    pub fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.streams.lock())
    }

    /// Bytes that wait for streams to be read.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    reader: Option<Waker>,
    /// The hub waits for the queue to be light.
    starved: bool,
    /// How the stream ends once the queue is empty.
    end: End,
}

#[derive(Default)]
enum End {
    #[default]
    Open,
    With(Status),
    Ended,
}

impl Queue {
    fn is_light(&self) -> bool {
        self.frames.len() < LIGHT_FRAMES && self.bytes < LIGHT_BYTES
    }
}

pub struct Outbox {
    stream: u64,
    queue: Mutex<Queue>,
    drained: Arc<Drained>,
}

impl Outbox {
    pub fn new(stream: u64, drained: Arc<Drained>) -> Outbox {
        Outbox {
            stream,
            queue: Mutex::default(),
            drained,
        }
    }

    pub fn push(&self, frame: Frame) {
        let mut queue = self.queue.lock();
        let bytes = frame.size() + FRAME_OVERHEAD;
        queue.bytes += bytes;
        self.drained.waiting.fetch_add(bytes, Ordering::Relaxed);
        metrics::PENDING_EVENTS.add(frame.events.as_slice().len() as i64);
        queue.frames.push_back(frame);
        if let Some(reader) = queue.reader.take() {
            reader.wake();
        }
    }

    /// Returns true if another response may be queued; if not, the stream reports when it is light.
    pub fn has_room(&self) -> bool {
        self.check(|queue| queue.frames.len() < FRAMES && queue.bytes < BYTES)
    }

    /// Returns true if nearly everything has been sent; if not, the stream reports when it has.
    pub fn is_light(&self) -> bool {
        self.check(Queue::is_light)
    }

    fn check(&self, holds: impl Fn(&Queue) -> bool) -> bool {
        let mut queue = self.queue.lock();
        let good = holds(&queue);
        queue.starved |= !good;
        good
    }

    /// Lets the stream end with `status` after what is queued.
    pub fn end(&self, status: Status) {
        let mut queue = self.queue.lock();
        queue.end = End::With(status);
        if let Some(reader) = queue.reader.take() {
            reader.wake();
        }
    }

    /// The next response to send.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Status>>> {
        let mut queue = self.queue.lock();
        let Some(frame) = queue.frames.pop_front() else {
            return match std::mem::replace(&mut queue.end, End::Ended) {
                End::With(status) => Poll::Ready(Some(Err(status))),
                End::Ended => Poll::Ready(None),
                End::Open => {
                    queue.end = End::Open;
                    queue.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        };
        let bytes = frame.size() + FRAME_OVERHEAD;
        queue.bytes -= bytes;
        self.drained.waiting.fetch_sub(bytes, Ordering::Relaxed);
        metrics::PENDING_EVENTS.sub(frame.events.as_slice().len() as i64);
        if queue.starved && queue.is_light() {
            queue.starved = false;
            self.drained.streams.lock().push(self.stream);
            self.drained.notify.notify_one();
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let queue = self.queue.get_mut();
        self.drained
            .waiting
            .fetch_sub(queue.bytes, Ordering::Relaxed);
        let events: usize = queue
            .frames
            .iter()
            .map(|frame| frame.events.as_slice().len())
            .sum();
        metrics::PENDING_EVENTS.sub(events as i64);
    }
}
