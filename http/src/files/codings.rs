//! Codings of content that a client accepts (RFC 9110, section 12.5.3).

use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};

/// A coding, the most wanted one first where a client accepts several alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Brotli,
    Zstd,
    Gzip,
}

const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

impl Coding {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The value of `Content-Encoding`.
    pub(crate) const fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.name())
    }

    /// The end of the name of a file in this coding.
    pub(crate) const fn suffix(self) -> &'static [u8] {
        match self {
            Self::Brotli => b".br",
            Self::Zstd => b".zst",
            Self::Gzip => b".gz",
        }
    }
}

/// What a client accepts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// From the most to the least wanted, without those that are wanted less than none.
    pub(crate) codings: Vec<Coding>,
    /// Content without a coding is acceptable.
    pub(crate) identity: bool,
}

/// Reads what a client accepts: without a field, no coding.
pub(crate) fn accepted(headers: &HeaderMap) -> Accepted {
    let mut weights = [None; ALL.len()];
    let (mut identity, mut any) = (None, None);
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    for item in texts.flat_map(|text| text.split(',')) {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        let Some(weight) = weight(parameters) else {
            continue;
        };
        let name = name.trim().to_ascii_lowercase();
        let place = match &*name {
            "identity" => &mut identity,
            "*" => &mut any,
            "x-gzip" => &mut weights[2],
            name => match ALL.iter().position(|coding| coding.name() == name) {
                Some(at) => &mut weights[at],
                None => continue,
            },
        };
        *place = Some(weight);
    }
    let floor = identity.unwrap_or(0);
    let mut codings: Vec<(u16, Coding)> = ALL
        .iter()
        .zip(weights)
        .map(|(coding, weight)| (weight.or(any).unwrap_or(0), *coding))
        .filter(|(weight, _)| *weight > 0 && *weight >= floor)
        .collect();
    // The sort is stable.
    codings.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    Accepted {
        codings: codings.into_iter().map(|(_, coding)| coding).collect(),
        identity: identity.or(any) != Some(0),
    }
}

/// The weight of an item, in thousandths. Returns `None` if it is malformed.
fn weight(parameters: &str) -> Option<u16> {
    let text = parameters.trim();
    if text.is_empty() {
        return Some(1000);
    }
    let value = text
        .strip_prefix(['q', 'Q'])?
        .trim_start()
        .strip_prefix('=')?;
    let value: f32 = value.trim().parse().ok()?;
    (0.0..=1.0)
        .contains(&value)
        .then_some((value * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_weighed() {
        for (field, codings, identity) in [
            ("", "", true),
            ("gzip, deflate, br, zstd", "br zstd gzip", true),
            ("gzip;q=1.0, br;q=0.5", "gzip br", true),
            ("gzip;q=0", "", true),
            ("GZIP;Q=0.5", "gzip", true),
            ("x-gzip", "gzip", true),
            ("*", "br zstd gzip", true),
            ("*;q=0", "", false),
            ("*;q=0, gzip", "gzip", false),
            ("br;q=0, *", "zstd gzip", true),
            ("identity;q=0", "", false),
            ("identity;q=0, gzip;q=0.1", "gzip", false),
            ("identity, gzip;q=0.5", "", true),
            ("identity;q=0.5, gzip;q=0.5", "gzip", true),
            ("gzip;q=x, br", "br", true),
            ("gzip;q=2", "", true),
            ("deflate", "", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(field));
            let accepted = accepted(&headers);
            let names: Vec<_> = accepted
                .codings
                .iter()
                .map(|coding| coding.name())
                .collect();
            assert_eq!(
                (&*names.join(" "), accepted.identity),
                (codings, identity),
                "{field}"
            );
        }
        assert!(accepted(&HeaderMap::new()).codings.is_empty());
    }
}
