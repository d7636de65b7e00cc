//! The known columns of a table, kept across runs: completed files are not read again, but files read later
//! still get the columns of all.

use arrow::{
    datatypes::{DataType, Fields, Schema},
    ipc::{reader::StreamReader, writer::StreamWriter},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::shape::Members;

/// The columns of all files of a table, including those that earlier runs have read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KnownColumns {
    /// Columns of text files, inferred from their rows.
    pub(super) text: Members,
    /// Columns of shards.
    #[serde(with = "as_ipc")]
    pub(super) shards: Fields,
    /// Columns of files that declare their types.
    #[serde(with = "as_ipc")]
    pub(super) declared: Fields,
}

impl KnownColumns {
    /// Returns a column whose type differs from its type in `before`, if any.
    #[must_use]
    pub fn changed<'a>(
        &self,
        before: &Self,
        mut names: impl Iterator<Item = &'a str>,
    ) -> Option<Changed> {
        names.find_map(|name| {
            let (was, is) = (before.types_of(name), self.types_of(name));
            let mut pairs = was.into_iter().zip(is).filter_map(|(was, is)| was.zip(is));
            let (was, is) = pairs.find(|(was, is)| was != is)?;
            Some(Changed { column: name.to_owned(), was, is })
        })
    }

    fn types_of(&self, name: &str) -> [Option<DataType>; 3] {
        let of = |fields: &Fields| fields.find(name).map(|(_, field)| field.data_type().clone());
        [self.text.type_of(name), of(&self.shards), of(&self.declared)]
    }
}

/// A column whose type has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The name.
    pub column: String,
    /// The previous type.
    pub was: DataType,
    /// The current type.
    pub is: DataType,
}

/// Fields as a base64 Arrow IPC schema.
mod as_ipc {
    use super::{
        BASE64_STANDARD, Deserialize, Deserializer, Engine, Fields, Schema, Serializer,
        StreamReader, StreamWriter, de, ser,
    };

    pub(super) fn serialize<S: Serializer>(fields: &Fields, to: S) -> Result<S::Ok, S::Error> {
        if fields.is_empty() {
            return to.serialize_str("");
        }
        let mut bytes = Vec::new();
        StreamWriter::try_new(&mut bytes, &Schema::new(fields.clone()))
            .and_then(|mut writer| writer.finish())
            .map_err(ser::Error::custom)?;
        to.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Fields, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(Fields::empty());
        }
        let bytes = BASE64_STANDARD.decode(text).map_err(de::Error::custom)?;
        let reader = StreamReader::try_new(bytes.as_slice(), None).map_err(de::Error::custom)?;
        Ok(reader.schema().fields().clone())
    }
}
