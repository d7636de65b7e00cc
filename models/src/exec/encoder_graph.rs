//! The graph of an encoder, rewritten if that does not change its results.
//!
//! Both graphs run on the same input at the first load. The result is kept in the cache folder.

use legenda_schemas::{
    cause::{Cause, chain},
    job::GraphForm,
};

use super::{
    GraphSetup, ModelError,
    padding::distance,
    trial::{Verdicts, expect_close, matched},
};
use crate::{
    bundle::Bundle,
    graph::{GraphSource, is_quantized, rewrite_encoder},
    runtime::{DeviceKind, Feed, GraphSession},
    tensors::Tensor,
};

/// The maximum difference of states, relative to their range.
const TOLERANCE: f32 = 5e-4;

/// The graph of an encoder.
pub(super) struct OpenedEncoder {
    pub(super) graph: GraphSession,
    pub(super) rewritings: Vec<&'static str>,
}

/// Opens an encoder of features of fixed size. On a CPU it is rewritten, if possible.
pub(super) fn open_encoder(
    setup: GraphSetup<'_>,
    bundle: &Bundle,
    name: &'static str,
) -> Result<OpenedEncoder, ModelError> {
    let GraphSetup { runtime, device, graphs } = setup;
    let published = bundle.files.graph(name)?;
    if graphs == GraphForm::Rewritten
        && device == DeviceKind::Cpu
        && let Some(rewritten) = rewritten(name, &published)
    {
        let verdicts = Verdicts::new(setup);
        let run = || try_both(setup, name, &published, &rewritten).map_err(|error| chain(&*error));
        if verdicts.accept(name, &[&rewritten], "encoder", run) {
            let graph = GraphSession::open(runtime, name, &rewritten, device)?;
            return Ok(OpenedEncoder { graph, rewritings: rewritten.rewritings().to_vec() });
        }
    }
    let graph = GraphSession::open(runtime, name, &published, device)?;
    Ok(OpenedEncoder { graph, rewritings: Vec::new() })
}

/// Rewrites an encoder, if it matches a pattern. Quantized activations differ by rounding errors.
pub(super) fn rewritten(name: &str, published: &GraphSource<'_>) -> Option<GraphSource<'static>> {
    if is_quantized(published).unwrap_or(true) {
        return None;
    }
    matched(name, rewrite_encoder(published))
}

/// Runs both graphs on the same input.
fn try_both(
    setup: GraphSetup<'_>,
    name: &'static str,
    published: &GraphSource<'_>,
    rewritten: &GraphSource<'_>,
) -> Result<(), Cause> {
    let states = |source| -> Result<Tensor<f32>, Cause> {
        let mut graph = GraphSession::open(setup.runtime, name, source, setup.device)?;
        let input = graph.input_names().next().ok_or("no input")?.to_owned();
        let dims = graph.input_dims(&input).ok_or("no dimensions")?;
        let shape: Vec<usize> = dims
            .iter()
            .enumerate()
            .map(|(axis, dim)| if axis == 0 { Ok(1) } else { usize::try_from(*dim) })
            .collect::<Result<_, _>>()?;
        let output = graph.output_names().next().ok_or("no output")?.to_owned();
        // Numbers between -1 and 1, without a pattern along any axis.
        let value = |idx: usize| {
            u16::try_from(idx * 7919 % 2003).map_or(0.0, |hash| f32::from(hash) / 1001.0 - 1.0)
        };
        let features = Tensor::new(&*shape, (0..shape.iter().product()).map(value).collect())?;
        Ok(graph.run(&input, Feed::F32(&features), &output)?)
    };
    let difference = distance(states(published)?.data(), states(rewritten)?.data());
    expect_close(name, "states", difference, TOLERANCE)
}
