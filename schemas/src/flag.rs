//! The flags of answers: the column `legenda_flags`.

use std::collections::BTreeSet;

/// A flag of an answer: a condition of the row's input. Flags depend only on the input and the job's
/// limits, so rows with the same input have the same flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flag {
    /// An image is damaged, and the decodable part was used (`limits.damaged_media = "answer"`).
    MediaDamaged,
    /// The channels of the audio cancel each other out when mixed down.
    ChannelsCancel,
}

/// The flags of a row, in column order.
pub type Flags = BTreeSet<Flag>;

impl Flag {
    /// Every flag.
    pub const ALL: [Self; 2] = [Self::MediaDamaged, Self::ChannelsCancel];

    /// Returns the name used in the column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MediaDamaged => "media_damaged",
            Self::ChannelsCancel => "channels_cancel",
        }
    }

    /// Returns the flag with the given name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|flag| flag.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::Flag;

    #[test]
    fn names_round_trip() {
        for flag in Flag::ALL {
            assert_eq!(Flag::from_name(flag.as_str()), Some(flag));
        }
        assert_eq!(Flag::from_name("no_such_flag"), None);
    }
}
