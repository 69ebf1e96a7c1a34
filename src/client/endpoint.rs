//! Where a server listens: the forms an endpoint is written in, and how it is dialled.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http::Uri;
use http_body_util::BodyExt;
use http_body_util::combinators::MapErr;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::body::Body;

/// What the status of a request says that never left this process. Such a request may be repeated.
pub(super) const NOT_SENT: &str = "there is no connection available";

/// Bytes a server may send ahead on one stream, so that a long range is not paced by round trips.
const STREAM_WINDOW: u32 = 4 << 20;

/// Bytes a server may send ahead on one connection.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// One server, as the user wrote it and as it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The text it was given as.
    pub text: String,
    /// True for `https://` and `unixs:`, false for `http://`, nothing if the text does not say.
    pub tls: Option<bool>,
    address: Address,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl Endpoint {
    /// Reads `host:port`, `http://…`, `https://…`, `unix:…` and `unixs:…`; a bad address shows when dialled.
    pub fn parse(text: &str) -> Endpoint {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme, rest),
            None => match text.split_once(':') {
                Some((scheme @ ("unix" | "unixs"), rest)) => (scheme, rest),
                _ => ("", text),
            },
        };
        let host = || Address::Tcp(rest.split('/').next().unwrap_or_default().to_string());
        let (tls, address) = match scheme {
            "unix" => (None, Address::Unix(rest.into())),
            "unixs" => (Some(true), Address::Unix(rest.into())),
            "https" => (Some(true), host()),
            "http" => (Some(false), host()),
            _ => (None, host()),
        };
        Endpoint {
            text: text.to_string(),
            tls,
            address,
        }
    }

    /// The name requests are addressed to.
    fn origin(&self) -> Uri {
        let authority = match &self.address {
            Address::Tcp(host) => host.as_str(),
            Address::Unix(_) => "localhost",
        };
        format!("http://{authority}/")
            .parse()
            .unwrap_or_else(|_| Uri::from_static("http://localhost/"))
    }

    async fn connect(&self) -> io::Result<Box<dyn Transport>> {
        Ok(match &self.address {
            Address::Tcp(host) => {
                let stream = TcpStream::connect(host).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }

    /// Fetches one of the pages a server has besides its API.
    pub async fn http_get(&self, path: &str) -> io::Result<String> {
        let stream = TokioIo::new(self.connect().await?);
        let shake = hyper::client::conn::http1::handshake(stream).await;
        let (mut send, driver) = shake.map_err(io::Error::other)?;
        let origin = self.origin();
        let host = origin.host().unwrap_or_default();
        let request = http::Request::get(path).header("host", host);
        let request = request.body(Body::empty()).map_err(io::Error::other)?;
        let fetch = async {
            let response = send.send_request(request).await?;
            response.into_body().collect().await
        };
        tokio::pin!(driver);
        let body = tokio::select! {
            body = fetch => body,
            Err(error) = &mut driver => Err(error),
        };
        let body = body.map_err(io::Error::other)?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Opens a connection; the future in the pair ends when the connection does.
    pub(super) async fn dial(
        &self,
        keepalive: Keepalive,
    ) -> io::Result<(Connection, impl Future<Output = ()> + use<>)> {
        let stream = self.connect().await?;
        let (send, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Some(keepalive.interval.max(Keepalive::SHORTEST)))
            .keep_alive_timeout(keepalive.timeout)
            .keep_alive_while_idle(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let connection = Connection {
            send,
            origin: self.origin(),
        };
        Ok((connection, async move {
            // How a connection ended is told to its requests; nobody else needs to hear it.
            let _ = driver.await;
        }))
    }
}

/// When a connection with open calls is pinged, and how long the answer may take.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    pub interval: Duration,
    pub timeout: Duration,
}

impl Keepalive {
    /// Servers cut connections that ping much more often.
    const SHORTEST: Duration = Duration::from_secs(10);
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        Keepalive {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(6),
        }
    }
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// An open connection; clones share it.
#[derive(Clone)]
pub(super) struct Connection {
    send: http2::SendRequest<Body>,
    origin: Uri,
}

impl Connection {
    pub(super) fn origin(&self) -> Uri {
        self.origin.clone()
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.send.is_closed()
    }
}

type ResponseBody = MapErr<Incoming, fn(hyper::Error) -> Status>;

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<ResponseBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sent = self.send.try_send_request(request);
        Box::pin(async move {
            match sent.await {
                Ok(response) => Ok(response.map(|body| body.map_err(lost as fn(_) -> _))),
                Err(mut error) => match error.take_message() {
                    Some(_) => Err(Status::unavailable(NOT_SENT)),
                    None => Err(lost(error.into_error())),
                },
            }
        })
    }
}

/// What became of a call whose connection broke: unknown, so only idempotent ones are repeated.
fn lost(error: hyper::Error) -> Status {
    let status = Status::from_error(Box::new(error));
    match status.code() {
        tonic::Code::Unknown | tonic::Code::Cancelled => {
            Status::unavailable(format!("error reading from server: {}", status.message()))
        }
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_in_every_form() {
        let tcp = |text: &str| Address::Tcp(text.into());
        let unix = |text: &str| Address::Unix(text.into());
        let cases = [
            ("127.0.0.1:2379", None, tcp("127.0.0.1:2379")),
            ("http://a:1", Some(false), tcp("a:1")),
            ("https://a:1/", Some(true), tcp("a:1")),
            ("[::1]:2379", None, tcp("[::1]:2379")),
            ("unix:a.sock", None, unix("a.sock")),
            ("unix:///tmp/a", None, unix("/tmp/a")),
            ("unixs://a", Some(true), unix("a")),
            ("localhost", None, tcp("localhost")),
        ];
        for (text, tls, address) in cases {
            let endpoint = Endpoint::parse(text);
            assert_eq!((endpoint.tls, endpoint.address), (tls, address), "{text}");
        }
    }
}
