//! What is typed in more than one command: sizes, addresses, and how to find the master.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::Args;
use moorline_master::MasterConfig;
use moorline_types::{BLOCK_SIZE, ByteCount};
use moorline_wire::hello::Credentials;

use super::{
    error::CliError,
    local_key,
    master_client::{MasterTarget, read_key},
};

/// Where `dev` puts the master, and where commands look for it.
pub const MASTER_DEFAULT: &str = "127.0.0.1:9400";

/// How a client command finds the master and proves itself.
#[derive(Clone, Debug, Args)]
pub struct MasterOptions {
    /// The master's address
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "MOORLINE_MASTER", hide_env_values = true,
        default_value = MASTER_DEFAULT
    )]
    pub master: HostPort,
    /// File with the cluster's key; a `moorline dev` of the same user is found without
    #[arg(
        long,
        value_name = "FILE",
        env = "MOORLINE_CLUSTER_KEY",
        hide_env_values = true
    )]
    pub cluster_key: Option<PathBuf>,
    /// Talk to a master on another machine without a key
    #[arg(long, conflicts_with = "cluster_key")]
    pub insecure: bool,
}

impl MasterOptions {
    /// Whom to ask, and with which proof.
    ///
    /// # Errors
    ///
    /// If the key file cannot be used.
    pub fn target(&self) -> Result<MasterTarget, CliError> {
        let credentials = match &self.cluster_key {
            Some(path) => Credentials::Key(read_key(path)?),
            None if self.insecure => Credentials::NoneInsecure,
            None => match local_key::find(&self.master) {
                Some(key) => Credentials::Key(key),
                None => Credentials::NoneLoopbackOnly,
            },
        };
        Ok(MasterTarget {
            address: self.master.clone(),
            credentials,
        })
    }
}

/// `HOST:PORT`, with a host name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort(String);

impl HostPort {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is no address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("use HOST:PORT, such as {MASTER_DEFAULT}, storage-1:9400 or [::1]:9400")]
pub struct HostPortError;

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let host_fits = !host.is_empty()
            && !host.contains(char::is_whitespace)
            && (bracketed || !host.contains([':', '[', ']', '/']));
        match port.parse::<u16>() {
            Ok(port) if port > 0 && host_fits => Ok(Self(text.to_owned())),
            Ok(_) | Err(_) => Err(HostPortError),
        }
    }
}

/// Text that is no size.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SizeError {
    /// No number in front.
    #[error("use a whole number of bytes, or one with KiB, MiB, GiB, TiB or PiB")]
    NotANumber,
    /// A unit that is none, or one with two meanings.
    #[error("`{unit}` is no unit here: use KiB, MiB, GiB, TiB or PiB (1 KiB is 1024 bytes)")]
    Unit {
        /// What was given.
        unit: Box<str>,
    },
    /// Over 2^64 bytes.
    #[error("that is more than 2^64 bytes")]
    TooLarge,
    /// Zero bytes.
    #[error("a size of zero holds nothing: use a multiple of {BLOCK_SIZE}")]
    Zero,
    /// Not whole blocks.
    #[error("{bytes} is not a multiple of {BLOCK_SIZE}: use {down} or {up}")]
    NotBlocks {
        /// What was given.
        bytes: u64,
        /// The next lower size.
        down: u64,
        /// The next higher size.
        up: u64,
    },
    /// Less than a block.
    #[error("{bytes} is less than {BLOCK_SIZE}, the least there is: use a multiple of it")]
    LessThanBlock {
        /// What was given.
        bytes: u64,
    },
    /// A log that is too small for the largest requests.
    #[error("a log needs at least {}", ByteCount::new(*least))]
    SmallLog {
        /// The least log, in bytes.
        least: u64,
    },
}

/// Reads a number of bytes: plain, or with a binary unit (`4096`, `512MiB`, `1G`).
///
/// # Errors
///
/// If it is none. `MB` and its like are refused: half of the world means 1000 by them.
pub fn parse_bytes(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = match number.parse() {
        Ok(number) => number,
        Err(_) if digits == 0 => return Err(SizeError::NotANumber),
        Err(_) => return Err(SizeError::TooLarge),
    };
    let unit = unit.trim_start();
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        "p" | "pib" => 50,
        _ if unit.starts_with(['.', ',']) => return Err(SizeError::NotANumber),
        _ => {
            return Err(SizeError::Unit {
                unit: unit.chars().take(20).collect(),
            });
        }
    };
    number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)
}

/// Reads a size in whole blocks, as volumes and logs have it.
///
/// # Errors
///
/// If it is no number of bytes, zero, or not a multiple of 4096.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let block = BLOCK_SIZE as u64;
    let bytes = parse_bytes(text)?;
    if bytes == 0 {
        return Err(SizeError::Zero);
    }
    if bytes < block {
        return Err(SizeError::LessThanBlock { bytes });
    }
    if !bytes.is_multiple_of(block) {
        let down = bytes / block * block;
        return Err(SizeError::NotBlocks {
            bytes,
            down,
            up: down.checked_add(block).ok_or(SizeError::TooLarge)?,
        });
    }
    Ok(bytes)
}

/// Reads the size of a replica's log, as the master takes it: refused here, before anything is
/// started for it.
///
/// # Errors
///
/// If it is no size, or too small.
pub fn parse_log_size(text: &str) -> Result<u64, SizeError> {
    let bytes = parse_size(text)?;
    let least = MasterConfig::default().log_bytes_min;
    if bytes < least {
        return Err(SizeError::SmallLog { least });
    }
    Ok(bytes)
}

/// Text that is no address to listen at.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "use IP:PORT, such as {MASTER_DEFAULT}, 0.0.0.0:9400 or [::1]:9400; names are not looked up"
)]
pub struct AddressError;

/// Reads an address to listen at.
///
/// # Errors
///
/// If it is none.
pub fn parse_address(text: &str) -> Result<SocketAddr, AddressError> {
    text.parse().map_err(|_| AddressError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_units() {
        for (text, want) in [
            ("4096", 4096),
            ("1GiB", 1 << 30),
            ("1g", 1 << 30),
            ("512 MiB", 512 << 20),
            ("3T", 3 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn a_size_that_is_none_is_refused_with_what_would_do() {
        for (text, want) in [
            (
                "huge",
                "use a whole number of bytes, or one with KiB, MiB, GiB, TiB or PiB",
            ),
            (
                "1.5GiB",
                "use a whole number of bytes, or one with KiB, MiB, GiB, TiB or PiB",
            ),
            (
                "10MB",
                "`MB` is no unit here: use KiB, MiB, GiB, TiB or PiB (1 KiB is 1024 bytes)",
            ),
            ("0", "a size of zero holds nothing: use a multiple of 4096"),
            (
                "67108865",
                "67108865 is not a multiple of 4096: use 67108864 or 67112960",
            ),
            (
                "3000",
                "3000 is less than 4096, the least there is: use a multiple of it",
            ),
            ("17000000TiB", "that is more than 2^64 bytes"),
            ("99999999999999999999999", "that is more than 2^64 bytes"),
        ] {
            assert_eq!(parse_size(text).unwrap_err().to_string(), want, "{text}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (text, good) in [
            ("127.0.0.1:9400", true),
            ("storage-1:9400", true),
            ("[::1]:9400", true),
            ("nowhere", false),
            ("::1:9400", false),
            (":9400", false),
            ("host:0", false),
            ("host:70000", false),
            ("nbd://host:9400", false),
        ] {
            assert_eq!(text.parse::<HostPort>().is_ok(), good, "{text}");
        }
    }
}
