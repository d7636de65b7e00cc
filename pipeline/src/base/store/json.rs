//! Values as JSON files.

use bytes::Bytes;
use serde::Serialize;

/// Serialises a value as the bytes of a JSON file.
///
/// # Errors
///
/// The reason the value cannot be serialised.
pub(crate) fn json(value: &impl Serialize) -> Result<Bytes, String> {
    let bytes = serde_json::to_vec_pretty(value);
    bytes.map(Bytes::from).map_err(|error| format!("failed to serialise to JSON: {error}"))
}
