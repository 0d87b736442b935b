//! One connection, one request: every bound of time and size stands here.
//!
//! | bound | what happens at it |
//! | --- | --- |
//! | places at each door (`counts`) | closed at once, counted |
//! | [`HEADER_TIME`], [`HEADER_OCTETS`], [`HEADERS_MAX`] | refused or closed |
//! | [`ANSWER_TIME`] until an answer is there | closed |
//! | [`READ_TIME`] until it is read: who reads slowly is cut off | closed, counted |
//! | [`HEARING_TIME`] where events are heard | closed; browsers come again |

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::kernel::stderr::warn;
use crate::programs::serve::admin::doors::Doors;
use crate::programs::serve::admin::events::CutOff;
use crate::programs::serve::admin::guard::Door;
use crate::programs::serve::admin::{AdminShared, routes};

/// How long a request's header may take to come.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// The octets of a request's header, and its lines.
const HEADER_OCTETS: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// From the accept on, until the answer is there; each kind has a shorter time of its own.
const ANSWER_TIME: Duration = Duration::from_secs(75);
/// From then on, until it is sent.
const READ_TIME: Duration = Duration::from_secs(15);
/// The same, where events are heard.
const HEARING_TIME: Duration = Duration::from_secs(3600);
/// After an accept that failed, as where there are no descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Accepts connections at all doors. Does not return.
pub async fn accept_all(shared: &Arc<AdminShared>, doors: Doors) {
    let Doors { unix, web, .. } = doors;
    let unix = unix.and_then(|door| listening(UnixListener::from_std(door.listener)));
    let web = web.and_then(|listener| listening(TcpListener::from_std(listener)));
    let at_unix = async {
        let Some(listener) = unix else { return pending().await };
        accept(shared, Door::Unix, async || listener.accept().await.map(|(stream, _)| stream)).await
    };
    let at_web = async {
        let Some(listener) = web else { return pending().await };
        accept(shared, Door::Web, async || listener.accept().await.map(|(stream, _)| stream)).await
    };
    tokio::join!(at_unix, at_web);
}

fn listening<L>(listener: io::Result<L>) -> Option<L> {
    listener
        .inspect_err(|error| warn(format_args!("nobody is answered at the admin socket: {error}")))
        .ok()
}

async fn accept<S>(shared: &Arc<AdminShared>, door: Door, next: impl AsyncFn() -> io::Result<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    loop {
        let Ok(stream) = next().await else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let Some(place) = shared.state.places.take(door) else {
            shared.state.counts.connections_refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            serve(shared, door, stream).await;
            drop(place);
        });
    }
}

/// Answers one request.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(shared: Arc<AdminShared>, door: Door, stream: S) {
    let answering = Arc::clone(&shared);
    // Set where events are heard.
    let hears = Arc::<OnceLock<CutOff>>::default();
    let is_there = Arc::new(Notify::new());
    let (hearing, tell) = (Arc::clone(&hears), Arc::clone(&is_there));
    let service = service_fn(move |request| {
        let (shared, hearing, tell) =
            (Arc::clone(&answering), Arc::clone(&hearing), Arc::clone(&tell));
        async move {
            let mut answer = routes::answer(&shared, door, request).await;
            if let Some(cut_off) = answer.extensions_mut().remove::<CutOff>() {
                // A connection has one answer.
                let _ = hearing.set(cut_off);
            }
            tell.notify_one();
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_OCTETS)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let limit = async {
        if timeout(ANSWER_TIME, is_there.notified()).await.is_err() {
            return;
        }
        if let Some(cut_off) = hears.get() {
            let _ = timeout(HEARING_TIME, cut_off.0.notified()).await;
            return;
        }
        sleep(READ_TIME).await;
        shared.state.counts.cut_off.fetch_add(1, Ordering::Relaxed);
    };
    tokio::select! {
        // What is wrong with a request, whoever made it is told; and whether it is still there is
        // nothing to us.
        _ = connection => {}
        () = limit => {}
    }
}
