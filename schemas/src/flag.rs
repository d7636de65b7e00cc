//! Flags of answers: the column `legenda_flags`.

use std::collections::BTreeSet;

/// A condition of a row's input that its answer is marked with. Flags depend on the input and the
/// job's limits alone, so rows with the same input have the same flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flag {
    /// An image is damaged, and what could be decoded of it was used
    /// (`limits.damaged_media = "answer"`).
    MediaDamaged,
    /// The channels of an audio cancel each other out when they are averaged.
    ChannelsCancel,
}

/// The flags of a row, in the order in which the column lists them.
pub type Flags = BTreeSet<Flag>;

impl Flag {
    /// Every flag.
    pub const ALL: [Self; 2] = [Self::MediaDamaged, Self::ChannelsCancel];

    /// Returns the name in the column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MediaDamaged => "media_damaged",
            Self::ChannelsCancel => "channels_cancel",
        }
    }

    /// Returns the flag with a name in the column.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|flag| flag.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::Flag;

    #[test]
    fn names_are_unique_and_read_back() {
        for flag in Flag::ALL {
            assert_eq!(Flag::from_name(flag.as_str()), Some(flag));
        }
        assert_eq!(Flag::from_name("no_such_flag"), None);
    }
}
