//! The HTTP server of the page. It limits the number and lifetime of connections, because runs, the job
//! folder and the history need the other file descriptors of the process.

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

use super::host::LocalAddress;

/// The maximum number of connections; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;

/// The page uses at most one of this many file descriptors of the process.
const DESCRIPTORS_PER_CONNECTION: usize = 4;

/// The timeout for reading the head of a request. It also limits the idle time of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The time after which a connection accepts no more requests.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The additional time for the client to read the last response.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after a failed `accept`.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Serves `router` on `listener` until the sender of `shutdown` is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    mut shutdown: watch::Receiver<()>,
) {
    let until = shutdown.clone();
    tokio::select! {
        () = accept(listener, router, until) => {}
        _ = shutdown.changed() => {}
    }
}

/// Accepts connections forever, up to the limit.
async fn accept(listener: TcpListener, router: Router, shutdown: watch::Receiver<()>) {
    let limit = connections_max(sysinfo::System::open_files_limit().ok());
    let connections = Arc::new(Semaphore::new(limit));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = serve_connection(stream, router.clone(), shutdown.clone());
                tokio::spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            // The client is gone already.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::error!(%error, "failed to accept a connection to the page");
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Returns the maximum number of connections for a limit of file descriptors.
fn connections_max(descriptors: Option<usize>) -> usize {
    let share = descriptors.map_or(CONNECTIONS_MAX, |limit| limit / DESCRIPTORS_PER_CONNECTION);
    share.clamp(1, CONNECTIONS_MAX)
}

/// Answers the requests of a connection.
async fn serve_connection(stream: TcpStream, router: Router, mut shutdown: watch::Receiver<()>) {
    let Ok(address) = stream.local_addr() else { return };
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(LocalAddress(address.ip()));
        router.call(request.map(Body::new))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let is_over = tokio::select! {
        _ = &mut connection => true,
        () = sleep(CONNECTION_TIMEOUT) => false,
        _ = shutdown.changed() => false,
    };
    if !is_over {
        connection.as_mut().graceful_shutdown();
        // Connection errors concern only the client.
        timeout(LAST_RESPONSE_TIMEOUT, connection).await.ok();
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
