//! OpenTelemetry traces of a run. If `OTEL_EXPORTER_OTLP_ENDPOINT` is set, spans are exported to that
//! collector over HTTP as protobuf; otherwise tracing is off.
//!
//! The variables follow the OpenTelemetry 1.x specification ("OTLP Exporter Configuration", "General
//! SDK Configuration"). Only `tracing` spans of this program's own crates are exported.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use reqwest::{Client, redirect};
use tokio::runtime::{Handle, Runtime};
use tracing::Subscriber;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::command::eprint;

/// The timeout of an export request, and of the final flush at exit.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The crates whose spans are exported.
const CRATES: [&str; 3] = ["legenda", "legenda_pipeline", "legenda_models"];

/// The trace exporter, if one is configured.
pub(crate) struct Traces {
    exporter: Option<Exporter>,
}

struct Exporter {
    provider: SdkTracerProvider,
    /// Drives the requests: the exporter's own thread has no runtime.
    _runtime: Runtime,
}

impl Traces {
    /// Creates a disabled exporter.
    pub(crate) fn none() -> Self {
        Self { exporter: None }
    }

    /// Starts the exporter if the environment configures a collector. An invalid configuration prints a
    /// warning and disables traces; the run goes on.
    pub(crate) fn start(is_offline: bool) -> Self {
        if !is_configured() {
            return Self::none();
        }
        if is_offline {
            eprint("warning: traces are disabled by `--offline`");
            return Self::none();
        }
        let exporter = Exporter::start();
        if let Err(error) = &exporter {
            eprint(&format!("warning: traces are disabled: {error:#}"));
        }
        Self { exporter: exporter.ok() }
    }

    /// Returns the layer that collects spans, `None` if traces are disabled.
    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let Exporter { provider, .. } = self.exporter.as_ref()?;
        let ours = CRATES.map(|name| (name, tracing::Level::INFO));
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("legenda"));
        Some(layer.with_filter(Targets::new().with_targets(ours)))
    }

    /// Flushes pending spans.
    pub(crate) fn finish(self) {
        if let Some(Exporter { provider, .. }) = self.exporter
            && let Err(error) = provider.shutdown_with_timeout(TIMEOUT)
        {
            tracing::warn!(%error, "failed to export some traces");
        }
    }
}

/// Returns whether the environment configures traces.
fn is_configured() -> bool {
    let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let is = |name: &str, word: &str| value(name).is_some_and(|v| v.eq_ignore_ascii_case(word));
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .any(|name| value(name).is_some())
        && !is("OTEL_SDK_DISABLED", "true")
        && !is("OTEL_TRACES_EXPORTER", "none")
}

impl Exporter {
    fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .context("failed to start the export thread")?;
        let client = Client::builder()
            .user_agent(concat!("legenda/", env!("CARGO_PKG_VERSION")))
            // Never forward the headers of `OTEL_EXPORTER_OTLP_HEADERS` to another host.
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .context("failed to create an HTTP client")?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(CollectorClient { client, runtime: runtime.handle().clone() })
            .with_protocol(Protocol::HttpBinary)
            .build()
            .context("invalid `OTEL_EXPORTER_OTLP_*` variables")?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource())
            .build();
        Ok(Self { provider, _runtime: runtime })
    }
}

/// Returns the resource attributes; the service name is `legenda` unless the environment sets it.
fn resource() -> Resource {
    let is_named = std::env::var_os("OTEL_SERVICE_NAME").is_some()
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES")
            .is_ok_and(|attributes| attributes.contains("service.name="));
    let resource = Resource::builder();
    if is_named { resource.build() } else { resource.with_service_name("legenda").build() }
}

/// A collector reached through the HTTP client that the rest of the program uses.
#[derive(Debug)]
struct CollectorClient {
    client: Client,
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let request = reqwest::Request::try_from(request)?;
        let sent = self.runtime.spawn(async move {
            let response = client.execute(request).await?;
            let mut builder = Response::builder().status(response.status());
            if let Some(headers) = builder.headers_mut() {
                headers.clone_from(response.headers());
            }
            Ok(builder.body(response.bytes().await?)?)
        });
        sent.await?
    }
}
