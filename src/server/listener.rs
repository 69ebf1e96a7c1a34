//! Sockets and connections: bind, accept, tell HTTP/2 from HTTP/1 by the first bytes, serve, drain.
//!
//! The backlog of a bound listener fills while nobody accepts, so a member can own its addresses long
//! before it is ready. One task accepts and one task serves each connection; all end with the stop token.

use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use http::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::TcpListener;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use tracing::warn;

use super::body::Body;
use super::config::Config;
use super::url::Url;
use crate::error::os_text;

/// How long a connection may take to say what it speaks.
const GREETING: Duration = Duration::from_secs(300);
const BACKLOG: i32 = 4096;
/// Files that are not connections: what etcd keeps back from its limit.
const RESERVED_FILES: u64 = 150;
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// h2 kills connections that buffer many small unread frames; its budget grows with the window.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME_BYTES: u32 = 64 << 10;
/// Clients that cancel many watches at once reset that many streams.
const PENDING_RESETS: usize = 4096;

/// A socket that owns its address and does not accept yet.
pub struct Bound {
    socket: Listener,
    /// As it is logged.
    pub address: String,
}

enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl Bound {
    /// Binds the address of `url`. The error reads like Go's.
    pub fn bind(url: &Url, config: &Config) -> io::Result<Bound> {
        let told = |error: io::Error| {
            let network = if url.is_unix() { "unix" } else { "tcp" };
            let text = format!(
                "listen {network} {}: bind: {}",
                url.address(),
                os_text(&error)
            );
            io::Error::new(error.kind(), text)
        };
        let socket = if url.is_unix() {
            bind_unix(url.socket_file()).map_err(told)?
        } else {
            Listener::Tcp(bind_tcp(url, config).map_err(told)?)
        };
        Ok(Bound {
            socket,
            address: url.address().to_string(),
        })
    }
}

fn bind_tcp(url: &Url, config: &Config) -> io::Result<std::net::TcpListener> {
    let port: u16 = url
        .port()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "invalid port"))?;
    let mut addresses: Vec<SocketAddr> = (url.host(), port).to_socket_addrs()?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let address = *addresses
        .first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))?;
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // As Go does for every listener, so that a restart is not held up by old connections;
    // --socket-reuse-address asks for the same.
    socket.set_reuse_address(true)?;
    if config.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: PathBuf) -> io::Result<Listener> {
    let _ = fs::remove_file(&path);
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    Ok(Listener::Unix(listener, path))
}

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    fn call(
        &self,
        request: Request<Incoming>,
        remote: Arc<str>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// How connections are served, the same for all listeners of a kind.
#[derive(Clone)]
pub struct Settings {
    pub max_concurrent_streams: u32,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    /// What may be spoken.
    pub http1: bool,
    pub http2: bool,
}

impl Settings {
    fn http2(&self) -> http2::Builder<TokioExecutor> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(self.max_concurrent_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(None);
        if !self.keepalive_interval.is_zero() && !self.keepalive_timeout.is_zero() {
            builder
                .keep_alive_interval(self.keepalive_interval)
                .keep_alive_timeout(self.keepalive_timeout);
        }
        builder
    }

    fn http1(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(GREETING)
            .title_case_headers(true);
        builder
    }
}

/// Accepts until `stop`, then waits until every connection has finished what it was doing.
pub async fn serve<S: Service>(
    bound: Bound,
    service: Arc<S>,
    settings: Settings,
    stop: CancellationToken,
) -> io::Result<()> {
    let connections = TaskTracker::new();
    let result = accept(bound, service, settings, &stop, &connections).await;
    connections.close();
    connections.wait().await;
    result
}

async fn accept<S: Service>(
    bound: Bound,
    service: Arc<S>,
    settings: Settings,
    stop: &CancellationToken,
    connections: &TaskTracker,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(places()));
    let acceptor = Acceptor::new(bound.socket)?;
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.map_err(io::Error::other)?,
            () = stop.cancelled() => return Ok(()),
        };
        let stream = tokio::select! {
            stream = acceptor.accept() => stream,
            () = stop.cancelled() => return Ok(()),
        };
        let (stream, remote) = match stream {
            Ok(accepted) => accepted,
            Err(error) if is_passing(&error) => {
                warn!(error = %os_text(&error), "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let connection = Connection {
            service: service.clone(),
            settings: settings.clone(),
            remote,
            stop: stop.clone(),
        };
        connections.spawn(async move {
            if let Err(error) = connection.run(stream).await {
                debug!(error = %error, "a client connection ended");
            }
            drop(place);
        });
    }
}

/// How many connections one listener holds: the limit of open files but for those needed otherwise.
fn places() -> usize {
    let (_, limit) = super::process::files();
    let places = limit.saturating_sub(RESERVED_FILES).max(16);
    usize::try_from(places)
        .unwrap_or(Semaphore::MAX_PERMITS)
        .min(Semaphore::MAX_PERMITS)
}

/// Errors of one connection, or of a moment without free files, which say nothing about the listener.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    const TOO_MANY_FILES: [i32; 2] = [23, 24];
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    ) || error
        .raw_os_error()
        .is_some_and(|code| TOO_MANY_FILES.contains(&code))
}

enum Acceptor {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        _file: RemoveOnDrop,
    },
}

/// A socket's file goes with its listener.
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Acceptor {
    fn new(listener: Listener) -> io::Result<Acceptor> {
        Ok(match listener {
            Listener::Tcp(listener) => Acceptor::Tcp(TcpListener::from_std(listener)?),
            Listener::Unix(listener, path) => Acceptor::Unix {
                listener: UnixListener::from_std(listener)?,
                _file: RemoveOnDrop(path),
            },
        })
    }

    async fn accept(&self) -> io::Result<(Stream, Arc<str>)> {
        match self {
            Acceptor::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let keepalive = socket2::TcpKeepalive::new()
                    .with_time(TCP_KEEPALIVE)
                    .with_interval(TCP_KEEPALIVE);
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Ok((Stream::Tcp(stream), address.to_string().into()))
            }
            Acceptor::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), "@".into()))
            }
        }
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

struct Connection<S> {
    service: Arc<S>,
    settings: Settings,
    remote: Arc<str>,
    stop: CancellationToken,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl<S: Service> Connection<S> {
    async fn run(self, stream: Stream) -> Result<(), Failure> {
        match stream {
            // Peeking leaves the bytes where they are, so the stream itself goes to hyper.
            Stream::Tcp(stream) => {
                let Some(http2) = self.greet(peek(&stream)).await? else {
                    return Ok(());
                };
                self.speak(stream, http2).await
            }
            Stream::Unix(stream) => {
                let mut stream = Rewound::new(stream);
                let Some(http2) = self.greet(stream.preview()).await? else {
                    return Ok(());
                };
                self.speak(stream, http2).await
            }
        }
    }

    /// Waits for the first bytes; true means HTTP/2. `None` if the server stops, the client left or is not to be served.
    async fn greet(
        &self,
        first: impl Future<Output = io::Result<Spoken>>,
    ) -> io::Result<Option<bool>> {
        let spoken = tokio::select! {
            first = tokio::time::timeout(GREETING, first) => first.unwrap_or(Ok(Spoken::Nothing))?,
            () = self.stop.cancelled() => Spoken::Nothing,
        };
        Ok(match spoken {
            Spoken::Http1 => self.settings.http1.then_some(false),
            Spoken::Http2 => self.settings.http2.then_some(true),
            Spoken::Nothing => None,
        })
    }

    async fn speak<IO>(self, io: IO, http2: bool) -> Result<(), Failure>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (service, remote) = (self.service, self.remote);
        let handler = service_fn(move |request| {
            let (service, remote) = (service.clone(), remote.clone());
            async move { Ok::<_, std::convert::Infallible>(service.call(request, remote).await) }
        });
        let io = TokioIo::new(io);
        // Neither connection type can be named, so there is no trait to share these lines by.
        macro_rules! run {
            ($connection:expr) => {{
                let mut connection = Box::pin($connection);
                tokio::select! {
                    result = connection.as_mut() => return Ok(result?),
                    () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
                }
                Ok(connection.await?)
            }};
        }
        if http2 {
            run!(self.settings.http2().serve_connection(io, handler))
        } else {
            run!(self.settings.http1().serve_connection(io, handler))
        }
    }
}

/// The beginning of the HTTP/2 preface; no HTTP/1 method begins so.
const PREFACE: &[u8; 3] = b"PRI";

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Http1,
    Http2,
    /// No HTTP at all; such a client is let go without a word.
    Nothing,
}

/// What is spoken, or `None` if more bytes are needed to tell.
fn tell(first: &[u8]) -> Option<Spoken> {
    let seen = first.len().min(PREFACE.len());
    match first.first() {
        Some(letter) if !letter.is_ascii_alphabetic() => Some(Spoken::Nothing),
        _ if first[..seen] != PREFACE[..seen] => Some(Spoken::Http1),
        _ => (seen == PREFACE.len()).then_some(Spoken::Http2),
    }
}

/// Looks at the first bytes and leaves them where they are.
async fn peek(stream: &tokio::net::TcpStream) -> io::Result<Spoken> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Ok(Spoken::Nothing);
        }
        if let Some(spoken) = tell(&first[..seen]) {
            return Ok(spoken);
        }
        // The rest of the preface is on its way; the socket counts as readable all the time.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A stream whose first bytes have been read and are read again.
struct Rewound<IO> {
    first: Vec<u8>,
    taken: usize,
    io: IO,
}

impl<IO: AsyncRead + Unpin> Rewound<IO> {
    fn new(io: IO) -> Rewound<IO> {
        Rewound {
            first: Vec::new(),
            taken: 0,
            io,
        }
    }

    async fn preview(&mut self) -> io::Result<Spoken> {
        loop {
            let mut bytes = [0; PREFACE.len()];
            let read = self.io.read(&mut bytes).await?;
            if read == 0 {
                return Ok(Spoken::Nothing);
            }
            self.first.extend_from_slice(&bytes[..read]);
            if let Some(spoken) = tell(&self.first) {
                return Ok(spoken);
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewound<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = &this.first[this.taken..];
        if left.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let take = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..take]);
        this.taken += take;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewound<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        let cases: &[(&[u8], Option<Spoken>)] = &[
            (b"P", None),
            (b"PR", None),
            (b"PRI * HTTP/2.0", Some(Spoken::Http2)),
            (b"POST / HTTP/1.1", Some(Spoken::Http1)),
            (b"PROPFIND", Some(Spoken::Http1)),
            (b"G", Some(Spoken::Http1)),
            (b"\x16\x03\x01", Some(Spoken::Nothing)),
        ];
        for (first, want) in cases {
            assert_eq!(tell(first), *want, "{first:?}");
        }
    }
}
