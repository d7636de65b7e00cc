//! The extensions of sidecars: one, or a list.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        IntoDeserializer, SeqAccess, Visitor,
        value::{SeqAccessDeserializer, StrDeserializer},
    },
};

use super::SidecarExtension;

/// The extensions of sidecars. A single one is written without a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarExtensions(Vec<SidecarExtension>);

impl SidecarExtensions {
    /// Returns the extensions.
    pub fn iter(&self) -> impl Iterator<Item = SidecarExtension> + '_ {
        self.0.iter().copied()
    }
}

impl From<SidecarExtension> for SidecarExtensions {
    fn from(extension: SidecarExtension) -> Self {
        Self(vec![extension])
    }
}

impl From<Vec<SidecarExtension>> for SidecarExtensions {
    fn from(extensions: Vec<SidecarExtension>) -> Self {
        Self(extensions)
    }
}

impl Serialize for SidecarExtensions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for SidecarExtensions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Extensions;

        impl<'de> Visitor<'de> for Extensions {
            type Value = SidecarExtensions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an extension or a list of extensions")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                let text: StrDeserializer<'_, E> = text.into_deserializer();
                SidecarExtension::deserialize(text).map(SidecarExtensions::from)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(SidecarExtensions)
            }
        }

        deserializer.deserialize_any(Extensions)
    }
}

impl JsonSchema for SidecarExtensions {
    fn schema_name() -> Cow<'static, str> {
        "SidecarExtensions".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<SidecarExtension>();
        json_schema!({ "anyOf": [one, {"type": "array", "items": one}] })
    }
}
