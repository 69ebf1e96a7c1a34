//! The body of a response: a finished text, the answer of a unary call, or a gRPC stream under watch.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http_body::Frame;
use http_body::SizeHint;
use tonic::Status;

use super::grpc::call::Watched;

pub enum Body {
    Text(Option<Bytes>),
    Unary(Unary),
    Grpc(Box<Watched>),
}

/// What is still to be sent of a call that went well.
pub enum Unary {
    Message(Bytes),
    Trailers,
    Done,
}

impl Unary {
    fn next(&mut self) -> Option<Frame<Bytes>> {
        match std::mem::replace(self, Unary::Done) {
            Unary::Message(message) => {
                *self = Unary::Trailers;
                Some(Frame::data(message))
            }
            Unary::Trailers => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Some(Frame::trailers(trailers))
            }
            Unary::Done => None,
        }
    }
}

impl Body {
    pub fn empty() -> Body {
        Body::Text(None)
    }

    pub fn text(text: impl Into<Bytes>) -> Body {
        let text = text.into();
        Body::Text(Some(text).filter(|text| !text.is_empty()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Body::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Body::Unary(rest) => Poll::Ready(rest.next().map(Ok)),
            Body::Grpc(watched) => watched.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Text(text) => text.is_none(),
            Body::Unary(rest) => matches!(rest, Unary::Done),
            Body::Grpc(watched) => watched.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            // A length in the headers would be one more thing to disagree about.
            Body::Unary(_) | Body::Grpc(_) => SizeHint::default(),
        }
    }
}
