//! Lists of strings, of which a list of one may be written as the string alone.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

/// A list of strings, or a string that stands for a list of one.
pub(super) struct OneOrSeveral(Vec<String>);

impl<'de> Deserialize<'de> for OneOrSeveral {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;

        impl<'de> Visitor<'de> for Strings {
            type Value = OneOrSeveral;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrSeveral(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(OneOrSeveral)
            }
        }

        deserializer.deserialize_any(Strings)
    }
}

impl JsonSchema for OneOrSeveral {
    fn schema_name() -> Cow<'static, str> {
        "OneOrSeveral".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}],
        })
    }
}

/// Reads a list of strings, or a string.
pub(super) fn one_or_several<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    OneOrSeveral::deserialize(deserializer).map(|OneOrSeveral(strings)| strings)
}

/// Reads the same of a key that may be left out.
pub(super) fn some_one_or_several<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    one_or_several(deserializer).map(Some)
}
