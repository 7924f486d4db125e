//! What is a header, and what is none: tables over both versions.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use socketserver::net::{Address, UnixAddress};
use socketserver::proxied::{ClientTls, Header, Kind};

use crate::{CLIENT, FRONT, address, header};

/// A header of version 2 that the library would not write.
pub(crate) fn v2(command: u8, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let len = (rest.len() as u16).to_be_bytes();
    [
        b"\r\n\r\n\0\r\nQUIT\n",
        &[command, protocol][..],
        &len,
        rest,
    ]
    .concat()
}

/// The addresses of [`header`].
const INET: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0xdc, 4, 1, 0xbb];

/// As [`v2`], with the addresses of [`header`] and these TLVs.
fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&INET, tlvs].concat())
}

/// Lines that are accepted, and the client that each names.
const GOOD_LINES: [(&str, Option<&str>); 8] = [
    ("PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n", Some(CLIENT)),
    (
        "PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
        Some("0.0.0.0:0"),
    ),
    (
        "PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n",
        Some(SIX),
    ),
    (
        "PROXY TCP6 2001:DB8:0:0:0:0:0:7 ::1 56324 443\r\n",
        Some(SIX),
    ),
    // inet_ntop(3) writes it so, which proxies use.
    (
        "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.1 56324 443\r\n",
        Some("[::ffff:192.0.2.7]:56324"),
    ),
    (
        "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
    ),
    ("PROXY UNKNOWN\r\n", None),
    // The longest line: 107 bytes.
    (
        "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        None,
    ),
];

const SIX: &str = "[2001:db8::7]:56324";

/// Headers that are accepted, and the client that each names.
pub(crate) fn good() -> Vec<(Vec<u8>, Option<Address>)> {
    let client = Some(address(CLIENT));
    let six = Header::new(&address(SIX), &address("[2001:db8::1]:443"));
    let unix = |path: &str| Address::from(UnixAddress::from(path));
    let unix_to_unix = Header::new(&unix("/a/client"), &unix("/run/s"));
    let tls = ClientTls::new().with_client("c");
    let full = header()
        .with(Kind::AUTHORITY, b"example.com")
        .with_tls(&tls);
    let written = [
        (header(), client.clone()),
        (header().datagram(), client.clone()),
        (header().crc32c(), client.clone()),
        (full.crc32c(), client.clone()),
        (six, Some(address(SIX))),
        (unix_to_unix, Some(unix("/a/client"))),
        (Header::local(), None),
    ];
    let mut all: Vec<_> = written
        .into_iter()
        .map(|(header, client)| (header.to_v2().expect("a header"), client))
        .collect();
    let lines = GOOD_LINES.iter();
    all.extend(lines.map(|(line, client)| (line.as_bytes().to_vec(), client.map(address))));
    let unusual_tlvs = [Kind::NOOP.0, 0, 0, 0xff, 0, 1, 7, 0xe0, 0, 0];
    all.extend([
        (b"PROXY UNKNOWN \xff\0 anything\r\n".to_vec(), None),
        (with_tlvs(&unusual_tlvs), client),
        (v2(0x21, 0x31, &[0; 216]), Some(UnixAddress::Unnamed.into())),
        // What a LOCAL header says besides, and what has no family or no protocol, has no meaning.
        (v2(0x20, 0x99, b"any"), None),
        (v2(0x20, 0x11, &[]), None),
        (v2(0x21, 0x00, b"any"), None),
        (v2(0x21, 0x01, b""), None),
        (v2(0x21, 0x10, b"any"), None),
        (v2(0x21, 0x20, b""), None),
        (v2(0x21, 0x30, b""), None),
    ]);
    all
}

const FIRST: &str = "the first bytes";
const NUMBER: &str = "a port is not";
const FAMILY: &str = "an address is not";
const SIX_FIELDS: &str = "six fields";
const PROTOCOL: &str = "its protocol";

/// What makes no header between `PROXY ` and the end of the line, and a part of the error.
const BAD_FIELDS: [(&str, &str); 32] = [
    ("", SIX_FIELDS),
    ("TCP 192.0.2.7 192.0.2.1 56324 443", PROTOCOL),
    ("UDP4 192.0.2.7 192.0.2.1 56324 443", PROTOCOL),
    ("tcp4 192.0.2.7 192.0.2.1 56324 443", PROTOCOL),
    ("UNKNOWNX", SIX_FIELDS),
    (" TCP4 192.0.2.7 192.0.2.1 56324 443", SIX_FIELDS),
    ("TCP4  192.0.2.7 192.0.2.1 56324 443", SIX_FIELDS),
    ("TCP4 192.0.2.7 192.0.2.1 56324 443 ", SIX_FIELDS),
    ("TCP4 192.0.2.7 192.0.2.1 56324 443 1", SIX_FIELDS),
    ("TCP4 192.0.2.7 192.0.2.1 56324", SIX_FIELDS),
    ("TCP4 192.0.2.7 192.0.2.1\t56324 443", SIX_FIELDS),
    ("TCP4 192.0.2.07 192.0.2.1 56324 443", FAMILY),
    ("TCP4 192.0.2.256 192.0.2.1 56324 443", FAMILY),
    ("TCP4 192.0.2 192.0.2.1 56324 443", FAMILY),
    ("TCP4 192.0.2.7. 192.0.2.1 56324 443", FAMILY),
    ("TCP4 192.0.2.7 0xc0000201 56324 443", FAMILY),
    ("TCP4 192.0.2.7 localhost 56324 443", FAMILY),
    ("TCP4 ::1 ::1 56324 443", FAMILY),
    ("TCP6 192.0.2.7 192.0.2.1 56324 443", FAMILY),
    ("TCP6 1:2:3:4:5:6:7 ::1 56324 443", FAMILY),
    ("TCP6 1:2:3:4:5:6:7:8:9 ::1 56324 443", FAMILY),
    ("TCP6 1::2::3 ::1 56324 443", FAMILY),
    ("TCP6 fe80::1%eth0 ::1 56324 443", FAMILY),
    ("TCP6 [::1] ::1 56324 443", FAMILY),
    ("TCP6 12345::1 ::1 56324 443", FAMILY),
    ("TCP4 192.0.2.7 192.0.2.1 +56324 443", NUMBER),
    ("TCP4 192.0.2.7 192.0.2.1 -1 443", NUMBER),
    ("TCP4 192.0.2.7 192.0.2.1 65536 443", NUMBER),
    ("TCP4 192.0.2.7 192.0.2.1 080 443", NUMBER),
    ("TCP4 192.0.2.7 192.0.2.1 56324 00", NUMBER),
    ("TCP4 192.0.2.7 192.0.2.1 56324 0x1bb", NUMBER),
    ("TCP4 192.0.2.7 192.0.2.1 56324 ", NUMBER),
];

/// Other bytes that are no header.
const BAD_BYTES: [(&[u8], &str); 11] = [
    (b"GET / HTTP/1.1\r\n", FIRST),
    (b"proxy TCP4 192.0.2.7 192.0.2.1 56324 443\r\n", FIRST),
    (b"PROXY\tTCP4 192.0.2.7 192.0.2.1 56324 443\r\n", FIRST),
    (b" PROXY UNKNOWN\r\n", FIRST),
    (b"\0", FIRST),
    (b"\r\n\r\n\0\r\nQUIT\r\x21\x11\0\0", FIRST),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\n", "CR LF"),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\r\n", "CR LF"),
    (b"PROXY UNKNOWN a\rb\r\n", "CR LF"),
    (b"PROXY UNKNOWN a\nb\r\n", "CR LF"),
    (
        b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443 \xff\r\n",
        "not text",
    ),
];

/// What is no header, and a part of the error.
pub(crate) fn bad() -> Vec<(Vec<u8>, &'static str)> {
    let mut wrong_sum = header().crc32c().to_v2().expect("a header");
    *wrong_sum.last_mut().expect("a byte") ^= 1;
    let mut other_port = header().crc32c().to_v2().expect("a header");
    other_port[25] ^= 1;
    let long_id = header().with(Kind::UNIQUE_ID, &[7; 129]);
    let two_sums = header().crc32c().with(Kind::CRC32C, &[0; 4]);
    let long_line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16));
    let fields = BAD_FIELDS.iter();
    let fields = fields.map(|(fields, why)| (format!("PROXY {fields}\r\n").into_bytes(), *why));
    let bytes = BAD_BYTES.iter().map(|(bytes, why)| (bytes.to_vec(), *why));
    let mut all: Vec<_> = fields.chain(bytes).collect();
    all.extend([
        (long_line(108).into_bytes(), "CR LF"),
        (long_line(109).into_bytes(), "107 bytes"),
        (v2(0x11, 0x11, &INET), "version or command"),
        (v2(0x31, 0x11, &INET), "version or command"),
        (v2(0x22, 0x11, &INET), "version or command"),
        (v2(0x21, 0x41, &INET), "family or protocol"),
        (v2(0x21, 0x13, &INET), "family or protocol"),
        (v2(0x21, 0x11, &INET[..11]), "shorter than its addresses"),
        (v2(0x21, 0x21, &[0; 35]), "shorter than its addresses"),
        (v2(0x21, 0x31, &[0; 215]), "shorter than its addresses"),
        (with_tlvs(&[1]), "cut off"),
        (with_tlvs(&[1, 0]), "cut off"),
        (with_tlvs(&[4, 0, 0, 1]), "cut off"),
        (with_tlvs(&[1, 0, 3, b'h', b'2']), "longer than the header"),
        (with_tlvs(&[1, 0xff, 0xff]), "longer than the header"),
        (with_tlvs(&[Kind::AUTHORITY.0, 0, 2, 0xc3, 0x28]), "UTF-8"),
        (long_id.to_v2().expect("a header"), "128 bytes"),
        (with_tlvs(&[Kind::TLS.0, 0, 4, 1, 0, 0, 0]), "too short"),
        (
            with_tlvs(&[Kind::TLS.0, 0, 7, 1, 0, 0, 0, 0, 0x21, 0]),
            "cut off",
        ),
        (
            with_tlvs(&[Kind::TLS.0, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 1]),
            "longer than the header",
        ),
        (
            with_tlvs(&[Kind::CRC32C.0, 0, 4, 0, 0, 0, 0]),
            "checksum is wrong",
        ),
        (with_tlvs(&[Kind::CRC32C.0, 0, 3, 0, 0, 0]), "4 bytes"),
        (two_sums.to_v2().expect("a header"), "4 bytes"),
        (wrong_sum, "checksum is wrong"),
        (other_port, "checksum is wrong"),
    ]);
    all
}

/// Data that could be taken for a part of a header, or for another one.
const DATA: [&[u8]; 4] = [
    b"",
    b"\r\nPROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\0\0\xff data",
];

#[test]
fn a_header_is_taken_whole_and_nothing_behind_it() {
    for (bytes, client) in good() {
        let shown = bytes.escape_ascii();
        for cut in 0..bytes.len() {
            let part = Header::parse(&bytes[..cut]);
            assert!(matches!(part, Ok(None)), "{cut} bytes of {shown}: {part:?}");
        }
        for data in DATA {
            let all = [&bytes, data].concat();
            let (header, len) = Header::parse(&all).expect("a header").expect("all of it");
            assert_eq!(
                (len, header.source()),
                (bytes.len(), client.as_ref()),
                "{shown}"
            );
        }
    }
}

#[test]
fn what_is_no_header_is_an_error() {
    for (bytes, why) in bad() {
        let shown = bytes.escape_ascii();
        let err = Header::parse(&bytes)
            .expect_err(&shown.to_string())
            .to_string();
        assert!(
            err.starts_with("PROXY header: ") && err.contains(why),
            "{shown}: {err}"
        );
        // Nothing before the error has passed for a header.
        for cut in 0..bytes.len() {
            let part = Header::parse(&bytes[..cut]);
            assert!(!matches!(part, Ok(Some(_))), "{cut} bytes of {shown}");
        }
    }
}

#[test]
fn fields_of_a_header_come_back() {
    let tls = ClientTls::new()
        .with(Kind::TLS_VERSION, b"TLSv1.3")
        .with(Kind::TLS_CIPHER, b"TLS_AES_128_GCM_SHA256")
        .with_client("alice");
    let sent = header()
        .with(Kind::ALPN, b"h2")
        .with(Kind::AUTHORITY, b"example.com")
        .with(Kind::UNIQUE_ID, &[9; 128])
        .with(Kind::NETNS, b"blue")
        .with(Kind(0xe0), b"own")
        .with_tls(&tls)
        .crc32c();
    let (got, _) = Header::parse(&sent.to_v2().expect("a header"))
        .unwrap()
        .unwrap();
    assert_eq!(got.source(), Some(&address(CLIENT)));
    assert_eq!(got.destination(), Some(&address(FRONT)));
    assert_eq!(
        (got.alpn(), got.authority()),
        (Some(&b"h2"[..]), Some("example.com"))
    );
    assert_eq!(
        (got.unique_id(), got.tlv(Kind::NETNS)),
        (Some(&[9; 128][..]), Some(&b"blue"[..]))
    );
    assert_eq!(
        (got.tlv(Kind(0xe0)), got.tlv(Kind(0xe1))),
        (Some(&b"own"[..]), None)
    );
    assert!(!got.is_local() && !got.is_datagram());
    let tls = got.tls().expect("TLS");
    assert!(tls.is_tls() && tls.has_certificate() && tls.is_verified());
    assert_eq!(
        (tls.version(), tls.common_name()),
        (Some("TLSv1.3"), Some("alice"))
    );
    assert_eq!(
        (tls.cipher(), tls.part(Kind::TLS_KEY)),
        (Some("TLS_AES_128_GCM_SHA256"), None)
    );
    let bare = ClientTls::new();
    assert!(bare.is_tls() && !bare.has_certificate() && !bare.is_verified());
}

#[test]
fn addresses_of_every_family_come_back() {
    let long = "/".to_owned() + &"p".repeat(107);
    let of = |bytes: &[u8]| {
        Address::from(UnixAddress::from(Path::new(std::ffi::OsStr::from_bytes(
            bytes,
        ))))
    };
    let pairs = [
        (of(b"/client"), of(long.as_bytes())),
        (of(b"/\xff"), UnixAddress::Unnamed.into()),
        (UnixAddress::Abstract(b"name".to_vec()).into(), of(b"/s")),
    ];
    for (source, destination) in pairs {
        let header = Header::new(&source, &destination);
        for header in [header.clone(), header.datagram()] {
            let (got, _) = Header::parse(&header.to_v2().expect("a header"))
                .unwrap()
                .unwrap();
            assert_eq!(got, header);
        }
    }
    // An IPv4 address beside one of IPv6 is sent in the mapped form.
    let mixed = Header::new(&address("192.0.2.7:1"), &address("[2001:db8::1]:2"));
    assert_eq!(
        mixed.to_v1().expect("a header"),
        b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 2\r\n"
    );
}

#[test]
fn what_a_version_cannot_express_is_not_sent() {
    let unix = Header::new(
        &UnixAddress::Unnamed.into(),
        &UnixAddress::from("/s").into(),
    );
    for header in [unix, Header::local(), header().datagram()] {
        assert!(
            header
                .to_v1()
                .unwrap_err()
                .to_string()
                .contains("version 1 has no")
        );
        assert!(header.to_v2().is_ok());
    }
    let named = Header::new(&Address::Named("a".to_owned()), &address(FRONT));
    assert_eq!(named.to_v1().expect("a header"), b"PROXY UNKNOWN\r\n");
    let long = UnixAddress::from(Path::new(&"p".repeat(109)));
    let long = Header::new(&long.into(), &UnixAddress::Unnamed.into());
    assert!(long.to_v2().unwrap_err().to_string().contains("108 bytes"));
    let large = header().with(Kind(0xe0), &[0; 65_521]);
    assert_eq!(
        large.to_v2().unwrap_err().kind(),
        std::io::ErrorKind::InvalidInput
    );
    let largest = header()
        .with(Kind(0xe0), &[0; 65_520])
        .to_v2()
        .expect("a header");
    assert_eq!(largest.len(), 16 + 65_535);
    assert!(Header::parse(&largest).unwrap().is_some());
}

/// What the files in `tests/corpus/proxy/` say, which HAProxy 2.6, nginx 1.22 and curl 7.88 have sent.
#[test]
fn headers_of_real_proxies_are_understood() {
    let of = |name: &str| {
        let bytes = std::fs::read(format!("tests/corpus/proxy/{name}")).unwrap();
        let (header, len) = Header::parse(&bytes).expect(name).expect(name);
        assert_eq!(len, bytes.len(), "{name}");
        header
    };
    for (name, client) in [
        ("haproxy_v1", Some("127.0.0.1:41294")),
        ("haproxy_v1_mapped", Some("[::ffff:127.0.0.1]:51354")),
        ("haproxy_v2", Some("127.0.0.1:34598")),
        ("haproxy_v2_six", Some("[::1]:50284")),
        ("haproxy_v2_tls", Some("127.0.0.1:38140")),
        ("haproxy_check_v1", Some("127.0.0.1:32972")),
        ("haproxy_check_v2", None),
        // Its client has connected to a Unix socket.
        ("haproxy_v2_unix", None),
        ("nginx_v1", Some("127.0.0.1:54904")),
        ("curl_v1", Some("127.0.0.1:57348")),
    ] {
        assert_eq!(of(name).source(), client.map(address).as_ref(), "{name}");
    }
    assert!(of("haproxy_check_v2").is_local() && !of("haproxy_v2").is_local());
    let header = of("haproxy_v2_tls");
    assert_eq!(
        (header.alpn(), header.authority()),
        (Some(&b"h2"[..]), Some("example.com"))
    );
    assert_eq!(header.unique_id(), Some(&b"11730"[..]));
    let tls = header.tls().expect("TLS");
    assert!(tls.is_tls() && tls.is_verified());
    assert_eq!(
        (tls.version(), tls.common_name()),
        (Some("TLSv1.3"), Some("alice"))
    );
    assert_eq!(tls.cipher(), Some("TLS_AES_256_GCM_SHA384"));
    assert_eq!(tls.part(Kind::TLS_KEY), Some(&b"EC256"[..]));
}
