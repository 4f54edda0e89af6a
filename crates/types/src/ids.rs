//! Names of things that outlive addresses and processes.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Text that is no id of the kind that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdError {
    /// Not 32 hexadecimal digits.
    #[error("`{text}` is not an id: 32 hexadecimal digits are")]
    NotHex {
        /// What was given.
        text: Box<str>,
    },
    /// A server id that is empty, too long, or has other characters than the allowed ones.
    #[error("`{text}` is no server id: use 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`")]
    BadServerId {
        /// What was given, cut to 80 characters.
        text: Box<str>,
    },
}

macro_rules! wide_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// Makes an id from 128 random bits.
            #[must_use]
            pub const fn new(bits: u128) -> Self {
                Self(bits)
            }

            /// The bits.
            #[must_use]
            pub const fn get(self) -> u128 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let fail = || IdError::NotHex { text: text.chars().take(80).collect() };
                if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(fail());
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|_| fail())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

wide_id! {
    /// One volume, for ever; a volume made later under the same name has another id.
    VolumeId
}
wide_id! {
    /// One formatted store; a wiped or new device gets another one.
    StoreId
}
wide_id! {
    /// One run of one server process.
    BootId
}
wide_id! {
    /// One cluster: one master's instance and the servers that joined it.
    ClusterId
}

/// The name of a server, chosen by its operator, stable across addresses and boots.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(Arc<str>);

impl ServerId {
    /// Longest name, in bytes.
    pub const LENGTH_MAX: usize = 63;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = (1..=Self::LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed);
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(IdError::BadServerId {
                text: text.chars().take(80).collect(),
            })
        }
    }
}

impl Borrow<str> for ServerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ServerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ServerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// One replica: a volume's copy on one server. Never derived from an address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplicaId {
    /// The volume.
    pub volume: VolumeId,
    /// The server that holds the copy.
    pub server: ServerId,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.volume, self.server)
    }
}

/// How often a store was opened; raised durably at every open before anything is said.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default, Debug,
)]
#[serde(transparent)]
pub struct OpenCount(u64);

impl OpenCount {
    /// Makes a count from its number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The count after one more open.
    ///
    /// # Panics
    ///
    /// After 2^64 - 1 opens.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(value) => Self(value),
            None => panic!("open counts ran out"),
        }
    }
}

impl fmt::Display for OpenCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One recovery attempt; never repeats, across restarts too (the maker mixes in its boot).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct SessionId {
    /// The maker's store open count: high part, so that later boots have higher ids.
    open: u64,
    /// Counts up within one open.
    serial: u64,
}

impl SessionId {
    /// Makes the id of the `serial`-th session of the store's `open`-th open.
    #[must_use]
    pub const fn new(open: OpenCount, serial: u64) -> Self {
        Self {
            open: open.0,
            serial,
        }
    }

    /// The open count of the maker's store.
    #[must_use]
    pub const fn open(self) -> OpenCount {
        OpenCount(self.open)
    }

    /// The number within that open.
    #[must_use]
    pub const fn serial(self) -> u64 {
        self.serial
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.open, self.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_as_they_are_printed() {
        let id = VolumeId::new(0xfeed);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("feed".parse::<VolumeId>().is_err());
        assert!(
            "+0000000000000000000000000000001"
                .parse::<VolumeId>()
                .is_err()
        );
    }

    #[test]
    fn server_ids_are_checked() {
        for (text, good) in [
            ("s1", true),
            ("", false),
            ("a b", false),
            ("rack-2.host_3", true),
        ] {
            assert_eq!(text.parse::<ServerId>().is_ok(), good, "{text:?}");
        }
        assert!("x".repeat(64).parse::<ServerId>().is_err());
    }
}
