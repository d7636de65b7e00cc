//! The precision of graph weights, and the choice of a job.
//!
//! The names are those of transformers.js (`dtype`), whose repositories contain a graph in several
//! precisions: `model.onnx`, `model_fp16.onnx`, `model_q4.onnx`.

use std::{collections::BTreeMap, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

/// The precision of the weights of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// 32-bit floats, the precision of the export.
    Fp32,
    /// 16-bit floats.
    Fp16,
    /// 8-bit integers, signed or unsigned as the exporter chose; also named `quantized`.
    Q8,
    /// Signed 8-bit integers.
    Int8,
    /// Unsigned 8-bit integers.
    Uint8,
    /// Blocks of 4-bit integers, the rest in 32-bit floats.
    Q4,
    /// Blocks of 4-bit integers, the rest in 16-bit floats.
    Q4f16,
    /// 4-bit floats of bitsandbytes.
    Bnb4,
}

/// An unknown precision.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid precision `{text}`: expected one of {}", names())]
pub struct PrecisionError {
    text: String,
}

fn names() -> String {
    Precision::ALL.map(Precision::as_str).join(", ")
}

impl Precision {
    /// Every precision, closest to the original weights first: the order of preference of a job that sets
    /// none.
    pub const ALL: [Self; 8] = [
        Self::Fp32,
        Self::Fp16,
        Self::Q8,
        Self::Int8,
        Self::Uint8,
        Self::Q4,
        Self::Q4f16,
        Self::Bnb4,
    ];

    /// Returns the name used in job files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Q8 => "q8",
            Self::Int8 => "int8",
            Self::Uint8 => "uint8",
            Self::Q4 => "q4",
            Self::Q4f16 => "q4f16",
            Self::Bnb4 => "bnb4",
        }
    }

    /// Returns the suffix of the graph's file name (transformers.js 4.3, `dtypes.js`).
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Fp32 => "",
            Self::Fp16 => "_fp16",
            Self::Q8 => "_quantized",
            Self::Int8 => "_int8",
            Self::Uint8 => "_uint8",
            Self::Q4 => "_q4",
            Self::Q4f16 => "_q4f16",
            Self::Bnb4 => "_bnb4",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Precision {
    type Err = PrecisionError;

    fn from_str(text: &str) -> Result<Self, PrecisionError> {
        let text = if text == "quantized" { Self::Q8.as_str() } else { text };
        let found = Self::ALL.into_iter().find(|precision| precision.as_str() == text);
        found.ok_or_else(|| PrecisionError { text: text.to_owned() })
    }
}

/// The precisions that a job chooses: `"q4"` for all graphs, or
/// `{ decoder_model_merged = "q4", embed_tokens = "fp16" }` by graph name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrecisionChoice {
    all: Option<Precision>,
    graphs: BTreeMap<String, Precision>,
}

impl PrecisionChoice {
    /// Chooses one precision for all graphs.
    #[must_use]
    pub fn all(precision: Precision) -> Self {
        Self { all: Some(precision), graphs: BTreeMap::new() }
    }

    /// Returns the precision chosen for a graph; `None` means the first available one of
    /// [`Precision::ALL`].
    #[must_use]
    pub fn for_graph(&self, graph: &str) -> Option<Precision> {
        self.graphs.get(graph).copied().or(self.all)
    }

    /// Returns the graphs that the choice names.
    pub fn graphs(&self) -> impl Iterator<Item = &str> {
        self.graphs.keys().map(String::as_str)
    }
}

/// Parses `q4` or `decoder_model_merged=q4,embed_tokens=fp16`.
impl FromStr for PrecisionChoice {
    type Err = PrecisionError;

    fn from_str(text: &str) -> Result<Self, PrecisionError> {
        if !text.contains('=') {
            return text.parse().map(Self::all);
        }
        let each = text.split(',').map(|part| match part.split_once('=') {
            Some((graph, precision)) => Ok((graph.trim().to_owned(), precision.trim().parse()?)),
            None => Err(PrecisionError { text: part.to_owned() }),
        });
        Ok(Self { all: None, graphs: each.collect::<Result<_, _>>()? })
    }
}

/// Formats the choice as [`FromStr`] parses it; the default choice is an empty string.
impl fmt::Display for PrecisionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(precision) = self.all {
            return precision.fmt(f);
        }
        for (idx, (graph, precision)) in self.graphs.iter().enumerate() {
            let comma = if idx == 0 { "" } else { "," };
            write!(f, "{comma}{graph}={precision}")?;
        }
        Ok(())
    }
}

impl Serialize for PrecisionChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.all {
            Some(precision) => serializer.serialize_str(precision.as_str()),
            None => serializer.collect_map(
                self.graphs.iter().map(|(graph, precision)| (graph, precision.as_str())),
            ),
        }
    }
}

impl<'de> Deserialize<'de> for PrecisionChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choice;

        impl<'de> Visitor<'de> for Choice {
            type Value = PrecisionChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a precision such as \"q4\", or a table of precisions by graph")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map(PrecisionChoice::all).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut graphs = BTreeMap::new();
                while let Some((graph, text)) = map.next_entry::<String, String>()? {
                    graphs.insert(graph, text.parse().map_err(serde::de::Error::custom)?);
                }
                Ok(PrecisionChoice { all: None, graphs })
            }
        }

        deserializer.deserialize_any(Choice)
    }
}

impl JsonSchema for PrecisionChoice {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PrecisionChoice".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut names = Precision::ALL.map(Precision::as_str).to_vec();
        names.push("quantized");
        let one = serde_json::json!({ "type": "string", "enum": names });
        json_schema!({ "oneOf": [one, { "type": "object", "additionalProperties": one }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Holder {
        precision: PrecisionChoice,
    }

    fn read(text: &str) -> Result<PrecisionChoice, String> {
        toml::from_str::<Holder>(text)
            .map(|holder| holder.precision)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_string_applies_to_all_graphs_and_a_table_to_the_named_ones() {
        let all = read(r#"precision = "quantized""#).unwrap();
        assert_eq!(all.for_graph("model"), Some(Precision::Q8));
        let some = read(r#"precision = { decoder_model_merged = "q4", x = "fp16" }"#).unwrap();
        assert_eq!(some.for_graph("decoder_model_merged"), Some(Precision::Q4));
        assert_eq!(some.for_graph("embed_tokens"), None);
        for choice in [all, some] {
            assert_eq!(choice.to_string().parse(), Ok(choice.clone()));
            let text = serde_json::to_string(&choice).unwrap();
            assert_eq!(serde_json::from_str::<PrecisionChoice>(&text).unwrap(), choice);
        }
    }

    #[test]
    fn an_unknown_precision_lists_the_valid_ones() {
        for text in [r#"precision = "f16""#, r#"precision = { model = "f16" }"#] {
            let message = read(text).unwrap_err();
            assert!(message.contains("invalid precision `f16`"), "{message}");
            assert!(message.contains("fp32, fp16, q8, int8"), "{message}");
        }
        assert!(read("precision = 4").unwrap_err().contains("such as \"q4\""));
    }
}
