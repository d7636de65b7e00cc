//! Serves the page to few connections at a time, none of which can stay: runs, the folder of job files and
//! the history need the other file descriptors of the process.

use std::{io::ErrorKind, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use super::host::Arrival;

/// The most connections at a time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;

/// The page takes at most one in so many of the file descriptors that the process may have.
const DESCRIPTORS_PER_CONNECTION: usize = 4;

/// How long the head of a request may take, from the moment that the connection is ready for it: so long a
/// connection may also be idle.
const HEAD_READ_MAX: Duration = Duration::from_secs(5);

/// How long a connection takes requests.
const CONNECTION_MAX: Duration = Duration::from_secs(30);

/// How much longer the last answer may take to be read.
const LAST_ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long nothing is accepted after the system refused a connection.
const ACCEPT_WAIT: Duration = Duration::from_secs(1);

/// Serves `router` at `listener` until the sender of `end` is gone.
pub(crate) async fn serve(listener: TcpListener, router: Router, mut end: watch::Receiver<()>) {
    let until = end.clone();
    tokio::select! {
        () = accept(listener, router, until) => {}
        _ = end.changed() => {}
    }
}

/// Accepts connections for ever, as many as may be open.
async fn accept(listener: TcpListener, router: Router, end: watch::Receiver<()>) {
    let limit = connections_max(sysinfo::System::open_files_limit().ok());
    let connections = Arc::new(Semaphore::new(limit));
    // It is never closed.
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answered = answer(stream, router.clone(), end.clone());
                tokio::spawn(async move {
                    answered.await;
                    drop(permit);
                });
            }
            // The other side has gone already.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::error!(%error, "failed to accept a connection of the page");
                sleep(ACCEPT_WAIT).await;
            }
        }
    }
}

/// Returns how many connections may be open where the process may have so many file descriptors.
fn connections_max(descriptors: Option<usize>) -> usize {
    let share = descriptors.map_or(CONNECTIONS_MAX, |limit| limit / DESCRIPTORS_PER_CONNECTION);
    share.clamp(1, CONNECTIONS_MAX)
}

/// Answers the requests of a connection.
async fn answer(stream: TcpStream, router: Router, mut end: watch::Receiver<()>) {
    let Ok(address) = stream.local_addr() else { return };
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arrival(address.ip()));
        router.call(request.map(Body::new))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_READ_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let is_over = tokio::select! {
        _ = &mut connection => true,
        () = sleep(CONNECTION_MAX) => false,
        _ = end.changed() => false,
    };
    if !is_over {
        connection.as_mut().graceful_shutdown();
        // What goes wrong with a connection is for its other side.
        timeout(LAST_ANSWER_MAX, connection).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::connections_max;

    #[test]
    fn the_page_leaves_most_descriptors_to_the_rest_of_the_service() {
        for (descriptors, expected) in
            [(None, 64), (Some(1 << 20), 64), (Some(256), 64), (Some(100), 25), (Some(2), 1)]
        {
            assert_eq!(connections_max(descriptors), expected);
        }
    }
}
