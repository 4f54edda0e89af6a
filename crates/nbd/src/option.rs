//! The layouts of option data: pure parsing, nothing allocated but what was checked.

use thiserror::Error;

use crate::protocol::{STRING_BYTES_MAX, option_reply};

/// Why option data is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum OptionFault {
    #[error("option data ends too early")]
    Short,
    #[error("option data goes on after its end")]
    Trailing,
    #[error("this option takes no data")]
    DataNotTaken,
    #[error("option data is too long")]
    TooLong,
    #[error("string is longer than 4096 bytes")]
    StringTooLong,
    #[error("string is not UTF-8, or contains NUL")]
    NotAString,
    #[error("query does not start with a namespace and a colon")]
    NoNamespace,
    #[error("too many queries")]
    TooManyQueries,
    #[error("structured replies must be negotiated first")]
    StructuredRepliesFirst,
}

impl OptionFault {
    /// The reply type that the protocol has for it.
    pub(crate) const fn reply(self) -> u32 {
        match self {
            Self::TooLong | Self::TooManyQueries => option_reply::ERR_TOO_BIG,
            Self::Short
            | Self::Trailing
            | Self::DataNotTaken
            | Self::StringTooLong
            | Self::NotAString
            | Self::NoNamespace
            | Self::StructuredRepliesFirst => option_reply::ERR_INVALID,
        }
    }
}

/// The data of INFO and GO. The information requests are checked for their number and not kept: all
/// information is always sent.
pub(crate) fn parse_info(data: &[u8]) -> Result<&str, OptionFault> {
    let mut reader = Reader { rest: data };
    let name = reader.counted_string()?;
    let requests = reader.u16()?;
    reader.bytes(usize::from(requests) * 2)?;
    reader.end()?;
    Ok(name)
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct ContextQuery<'a> {
    pub(crate) export: &'a str,
    pub(crate) queries: Vec<&'a str>,
}

pub(crate) fn parse_contexts(
    data: &[u8],
    queries_max: u32,
) -> Result<ContextQuery<'_>, OptionFault> {
    let mut reader = Reader { rest: data };
    let export = reader.counted_string()?;
    let count = reader.u32()?;
    if count > queries_max {
        return Err(OptionFault::TooManyQueries);
    }
    let mut queries = Vec::new();
    for _ in 0..count {
        let query = reader.counted_string()?;
        match query.split_once(':') {
            Some((namespace, _)) if !namespace.is_empty() => queries.push(query),
            Some(_) | None => return Err(OptionFault::NoNamespace),
        }
    }
    reader.end()?;
    Ok(ContextQuery { export, queries })
}

/// A string as the protocol defines it.
pub(crate) fn parse_string(bytes: &[u8]) -> Result<&str, OptionFault> {
    if bytes.len() > STRING_BYTES_MAX {
        return Err(OptionFault::StringTooLong);
    }
    if bytes.contains(&0) {
        return Err(OptionFault::NotAString);
    }
    std::str::from_utf8(bytes).map_err(|_| OptionFault::NotAString)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], OptionFault> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(OptionFault::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], OptionFault> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(OptionFault::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, OptionFault> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, OptionFault> {
        self.array().map(u32::from_be_bytes)
    }

    fn counted_string(&mut self) -> Result<&'a str, OptionFault> {
        let length = usize::try_from(self.u32()?).map_err(|_| OptionFault::Short)?;
        parse_string(self.bytes(length)?)
    }

    fn end(&self) -> Result<(), OptionFault> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(OptionFault::Trailing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&length[..], text].concat()
    }

    #[test]
    fn info_data_is_a_name_and_information_requests() {
        let name = counted(b"demo");
        for (tail, want) in [
            (&[0, 0][..], Ok("demo")),
            (&[0, 2, 0, 3, 0, 9], Ok("demo")), // requests of unknown types are ignored
            (&[], Err(OptionFault::Short)),
            (&[0], Err(OptionFault::Short)),
            (&[0, 1, 0], Err(OptionFault::Short)),
            (&[0, 0, 7], Err(OptionFault::Trailing)),
        ] {
            assert_eq!(parse_info(&[&name[..], tail].concat()), want, "{tail:?}");
        }
    }

    #[test]
    fn strings_keep_the_rules() {
        for (bytes, want) in [
            (&b""[..], Ok("")),
            (b"a b", Ok("a b")),
            (b"a\0b", Err(OptionFault::NotAString)),
            (&[0xff, 0xfe], Err(OptionFault::NotAString)),
            (&[b'x'; 4097], Err(OptionFault::StringTooLong)),
        ] {
            assert_eq!(parse_string(bytes), want);
        }
        assert!(parse_string(&[b'x'; 4096]).is_ok());
        // A length that reaches past the data is short, whatever it claims.
        assert_eq!(parse_info(&[0xff; 4]), Err(OptionFault::Short));
    }

    #[test]
    fn context_queries_are_bounded_and_have_a_namespace() {
        let data = |count: u32, queries: &[&[u8]]| {
            let queries: Vec<u8> = queries.iter().flat_map(|q| counted(q)).collect();
            [counted(b"demo"), count.to_be_bytes().to_vec(), queries].concat()
        };
        for (count, queries, want) in [
            (0, &[][..], Ok(vec![])),
            (1, &[&b"base:"[..]], Ok(vec!["base:"])),
            (
                2,
                &[b"base:allocation", b"x-y:z"],
                Ok(vec!["base:allocation", "x-y:z"]),
            ),
            (1, &[b"base"], Err(OptionFault::NoNamespace)),
            (1, &[b":allocation"], Err(OptionFault::NoNamespace)),
            (2, &[b"base:"], Err(OptionFault::Short)),
            (1, &[b"base:", b"base:"], Err(OptionFault::Trailing)),
            (5, &[], Err(OptionFault::TooManyQueries)),
            (u32::MAX, &[], Err(OptionFault::TooManyQueries)), // refused before anything is allocated
        ] {
            let data = data(count, queries);
            let got = parse_contexts(&data, 4).map(|q| {
                assert_eq!(q.export, "demo");
                q.queries
            });
            assert_eq!(got, want, "{count} {queries:?}");
        }
    }
}
