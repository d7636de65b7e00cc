//! OpenTelemetry traces of a run, for those who configure them: spans go to the collector that
//! `OTEL_EXPORTER_OTLP_ENDPOINT` names, over HTTP, as protobuf, and nowhere without it.
//!
//! The variables are those of the specification of OpenTelemetry 1.x ("OTLP Exporter Configuration",
//! "General SDK Configuration"). What is traced are the spans of the crate `tracing` that this
//! program's own crates make.

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

use crate::command::tell;

/// How long a collector may take to answer, and the end of the program wait for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The crates whose spans are sent.
const CRATES: [&str; 3] = ["legenda", "legenda_pipeline", "legenda_models"];

/// Sends spans while it lives, if it was asked to.
pub(crate) struct Traces {
    sending: Option<Sending>,
}

struct Sending {
    provider: SdkTracerProvider,
    /// What the requests wait on, for the exporter has a thread without a runtime.
    _runtime: Runtime,
}

impl Traces {
    /// Sends nothing.
    pub(crate) fn none() -> Self {
        Self { sending: None }
    }

    /// Starts what sends spans where the environment names a collector. One that cannot be used is
    /// told of and costs the traces, never the run.
    pub(crate) fn start(is_offline: bool) -> Self {
        if !is_configured() {
            return Self::none();
        }
        if is_offline {
            tell("warning: no traces are sent: `--offline` is given");
            return Self::none();
        }
        let sending = Sending::start();
        if let Err(error) = &sending {
            tell(&format!("warning: no traces are sent: {error:#}"));
        }
        Self { sending: sending.ok() }
    }

    /// Returns the layer that takes spans in; none where nothing is sent.
    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let Sending { provider, .. } = self.sending.as_ref()?;
        let ours = CRATES.map(|name| (name, tracing::Level::INFO));
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("legenda"));
        Some(layer.with_filter(Targets::new().with_targets(ours)))
    }

    /// Sends what has not been sent.
    pub(crate) fn finish(self) {
        if let Some(Sending { provider, .. }) = self.sending
            && let Err(error) = provider.shutdown_with_timeout(PATIENCE)
        {
            tracing::warn!(%error, "some traces were not sent");
        }
    }
}

/// Returns whether the environment asks for traces.
fn is_configured() -> bool {
    let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let is = |name: &str, word: &str| value(name).is_some_and(|v| v.eq_ignore_ascii_case(word));
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .any(|name| value(name).is_some())
        && !is("OTEL_SDK_DISABLED", "true")
        && !is("OTEL_TRACES_EXPORTER", "none")
}

impl Sending {
    fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .context("cannot start the thread that sends them")?;
        let client = Client::builder()
            .user_agent(concat!("legenda/", env!("CARGO_PKG_VERSION")))
            // The headers of `OTEL_EXPORTER_OTLP_HEADERS` are for that collector, and for no other.
            .redirect(redirect::Policy::none())
            .timeout(PATIENCE)
            .build()
            .context("cannot make a client of HTTP")?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector { client, runtime: runtime.handle().clone() })
            .with_protocol(Protocol::HttpBinary)
            .build()
            .context("the variables `OTEL_EXPORTER_OTLP_…` cannot be used")?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource())
            .build();
        Ok(Self { provider, _runtime: runtime })
    }
}

/// Returns what the spans say of the program: named `legenda` unless the environment names it.
fn resource() -> Resource {
    let is_named = std::env::var_os("OTEL_SERVICE_NAME").is_some()
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES")
            .is_ok_and(|attributes| attributes.contains("service.name="));
    let resource = Resource::builder();
    if is_named { resource.build() } else { resource.with_service_name("legenda").build() }
}

/// The collector, asked by the client that the rest of the program uses.
#[derive(Debug)]
struct Collector {
    client: Client,
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let request = reqwest::Request::try_from(request)?;
        let sent = self.runtime.spawn(async move {
            let response = client.execute(request).await?;
            let mut answer = Response::builder().status(response.status());
            if let Some(headers) = answer.headers_mut() {
                headers.clone_from(response.headers());
            }
            Ok(answer.body(response.bytes().await?)?)
        });
        sent.await?
    }
}
