//! Datagrams in batches: recvmmsg(2) and sendmmsg(2), with the local address of each datagram
//! (ip(7) `IP_PKTINFO`, ipv6(7) `IPV6_RECVPKTINFO`).
#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and control messages have no safe binding"
)]

use std::fmt;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, cmsghdr, iovec, mmsghdr, socklen_t};
use socket2::SockAddr;

/// The most datagrams of one system call.
pub(crate) const BATCH_MAX: usize = 32;

/// Room for two control messages: `in6_pktinfo` (20 bytes, the larger of the two structures) and
/// the size of a segment.
const CONTROL_LEN: usize = 64;

/// The largest datagram of a bundle: what IPv6 carries over every link (RFC 8200 section 5: 1,280
/// bytes) less the headers, rounded down. A larger datagram could need fragments, which a bundle
/// must not.
const SEGMENT_MAX: usize = 1200;

/// Control messages, aligned as `cmsghdr` must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// A socket address as the kernel writes it.
#[derive(Clone, Copy)]
pub(crate) struct RawAddr {
    storage: libc::sockaddr_storage,
    len: socklen_t,
}

/// A received datagram: its buffer, which is reused, and what the kernel reported of it.
pub(crate) struct Packet {
    buffer: Box<[u8]>,
    size: usize,
    pub(crate) sender: RawAddr,
    /// The local address that the datagram was sent to: the reply leaves from it.
    pub(crate) local: Option<IpAddr>,
}

/// A datagram to send.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) to: &'a RawAddr,
    pub(crate) from: Option<IpAddr>,
}

/// Makes the kernel report the local address of each datagram.
pub(crate) fn report_local_ip(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let on: c_int = 1;
    // SAFETY: the option takes an int, read from `on` within the call.
    let result = unsafe {
        let len = size_of::<c_int>() as socklen_t;
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&on).cast(),
            len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Receives waiting datagrams, up to one for each of `packets`. Returns how many. Never blocks.
///
/// # Errors
///
/// - `WouldBlock`: none is waiting.
/// - else as recvmmsg(2).
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    packets: &mut [Box<Packet>],
    local_ip_wanted: bool,
) -> io::Result<usize> {
    let count = packets.len().min(BATCH_MAX);
    let mut headers = [const { MaybeUninit::<mmsghdr>::uninit() }; BATCH_MAX];
    let mut vectors = [const { MaybeUninit::<iovec>::uninit() }; BATCH_MAX];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; BATCH_MAX];
    let slots = headers.iter_mut().zip(&mut vectors).zip(&mut controls);
    for (packet, ((header, vector), control)) in packets.iter_mut().zip(slots) {
        let vector = vector.write(iovec {
            iov_base: packet.buffer.as_mut_ptr().cast(),
            iov_len: packet.buffer.len(),
        });
        let mut new = empty_header();
        new.msg_hdr.msg_name = ptr::from_mut(&mut packet.sender.storage).cast();
        new.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as socklen_t;
        new.msg_hdr.msg_iov = vector;
        new.msg_hdr.msg_iovlen = 1;
        // Without room for control messages the kernel discards them, and with them descriptors
        // that a Unix peer may send (unix(7), SCM_RIGHTS).
        if local_ip_wanted {
            new.msg_hdr.msg_control = control.as_mut_ptr().cast();
            new.msg_hdr.msg_controllen = CONTROL_LEN;
        }
        header.write(new);
    }
    // MSG_TRUNC: `msg_len` is the datagram's real length, even if the buffer is smaller (recv(2)).
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the first `count` headers are initialised, and each points at buffers that outlive
    // the call and that nothing else reads or writes meanwhile (`&mut packets`, and locals of this
    // function).
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            count as u32,
            flags,
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for (packet, header) in packets.iter_mut().zip(&headers[..received]) {
        // SAFETY: the first `count` headers were initialised above, and `received <= count`.
        let header = unsafe { header.assume_init_ref() };
        packet.size = header.msg_len as usize;
        packet.sender.len = header.msg_hdr.msg_namelen;
        packet.local = local_ip(&header.msg_hdr);
    }
    Ok(received)
}

/// Whether a send waits for room, for as long as the socket's `SO_SNDTIMEO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    WaitFor,
    Need,
}

/// Whether successive datagrams of one size to one peer go to the kernel as a bundle (udp(7),
/// `UDP_SEGMENT`). The kernel splits it as late as it can, and the peer sees the same datagrams. It
/// stays on until the kernel rejects a bundle.
#[derive(Debug)]
pub(crate) struct Bundling(AtomicBool);

impl Bundling {
    pub(crate) const fn new(on: bool) -> Self {
        Self(AtomicBool::new(on))
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes why a bundle was not sent. EIO: the route has no checksum offload. EINVAL and
    /// EOPNOTSUPP: the kernel or the device has no segmentation. Other errors concern the
    /// datagrams.
    fn declined(&self, err: &io::Error) {
        let reasons = [libc::EIO, libc::EINVAL, libc::EOPNOTSUPP];
        if err
            .raw_os_error()
            .is_some_and(|errno| reasons.contains(&errno))
        {
            self.0.store(false, Ordering::Relaxed);
        }
    }
}

/// Sends the datagrams in order. Calls `failed` with the index and the error of each that could not
/// be sent.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    datagrams: &[Outgoing<'_>],
    room: Room,
    bundling: &Bundling,
    mut failed: impl FnMut(usize, io::Error),
) {
    let mut done = 0;
    // The end of a failed bundle, whose datagrams are sent one by one.
    let mut single = 0;
    while done < datagrams.len() {
        let retried = single > done;
        let end = if retried { single } else { datagrams.len() };
        let (rest, bundle) = (&datagrams[done..end], !retried && bundling.is_on());
        match send_some(socket, rest, room, bundle) {
            Ok(count) => done += count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) if bundle && run(rest) > 1 => {
                bundling.declined(&err);
                single = done + run(rest);
            }
            Err(err) => {
                failed(done, err);
                done += 1;
            }
        }
    }
}

/// Returns how many of the first datagrams fit into one bundle: all to one peer and from one
/// address, and all of one size, except the last, which may be smaller.
fn run(datagrams: &[Outgoing<'_>]) -> usize {
    let Some((first, others)) = datagrams.split_first() else {
        return 0;
    };
    let size = first.data.len();
    if size == 0 || size > SEGMENT_MAX {
        return 1;
    }
    let mut count = 1;
    for datagram in others {
        let len = datagram.data.len();
        if len == 0 || len > size || datagram.to != first.to || datagram.from != first.from {
            break;
        }
        count += 1;
        if len < size {
            break;
        }
    }
    count
}

/// Sends a prefix of `datagrams` and returns its length. An error concerns the first datagram, or
/// the first bundle.
fn send_some(
    socket: BorrowedFd<'_>,
    datagrams: &[Outgoing<'_>],
    room: Room,
    bundle: bool,
) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL
        | if room == Room::Need {
            libc::MSG_DONTWAIT
        } else {
            0
        };
    let count = datagrams.len().min(BATCH_MAX);
    let mut headers = [const { MaybeUninit::<mmsghdr>::uninit() }; BATCH_MAX];
    let mut vectors = [const { MaybeUninit::<iovec>::uninit() }; BATCH_MAX];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; BATCH_MAX];
    for (vector, datagram) in vectors.iter_mut().zip(datagrams) {
        vector.write(iovec {
            iov_base: datagram.data.as_ptr().cast_mut().cast(),
            iov_len: datagram.data.len(),
        });
    }
    // Each message is one datagram, or a bundle.
    let mut lengths = [0; BATCH_MAX];
    let (mut taken, mut messages) = (0, 0);
    for (header, control) in headers.iter_mut().zip(&mut controls) {
        let rest = &datagrams[taken..count];
        let Some(first) = rest.first() else { break };
        let length = if bundle { run(rest) } else { 1 };
        let mut new = empty_header();
        new.msg_hdr.msg_name = ptr::from_ref(&first.to.storage).cast_mut().cast();
        new.msg_hdr.msg_namelen = first.to.len;
        new.msg_hdr.msg_iov = vectors[taken].as_mut_ptr();
        new.msg_hdr.msg_iovlen = length;
        let segment = (length > 1).then_some(first.data.len() as u16);
        if first.from.is_some() || segment.is_some() {
            let control = control.write(Control([0; CONTROL_LEN]));
            new.msg_hdr.msg_controllen = control.set(first.from, segment);
            new.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        }
        header.write(new);
        lengths[messages] = length;
        taken += length;
        messages += 1;
    }
    // SAFETY: the first `messages` headers are initialised and point at buffers that outlive the
    // call, and at as many initialised vectors as they say; the kernel only reads through them, and
    // writes `msg_len` in the headers, which are ours.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            messages as u32,
            flags,
        )
    };
    let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
    Ok(lengths[..sent].iter().sum())
}

fn empty_header() -> mmsghdr {
    // SAFETY: `mmsghdr` is a C struct of integers and pointers; all zero is its empty value.
    unsafe { zeroed() }
}

/// Returns the local address from the control messages that the kernel wrote.
fn local_ip(header: &libc::msghdr) -> Option<IpAddr> {
    if header.msg_controllen < size_of::<cmsghdr>() {
        return None;
    }
    // SAFETY: `msg_control` points at `Control`, aligned for `cmsghdr`, and the length says that a
    // whole one is there.
    let first: &cmsghdr = unsafe { &*header.msg_control.cast() };
    // SAFETY: as above; CMSG_DATA only computes the address behind the header.
    let data = unsafe { libc::CMSG_DATA(first) };
    match (first.cmsg_level, first.cmsg_type) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // SAFETY: the kernel writes an `in_pktinfo` behind this header (ip(7)); it may be
            // unaligned.
            let info: libc::in_pktinfo = unsafe { ptr::read_unaligned(data.cast()) };
            // `ipi_spec_dst` is a local address even if the datagram was broadcast or multicast.
            Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into())
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            // SAFETY: the kernel writes an `in6_pktinfo` behind this header (ipv6(7)); it may be
            // unaligned.
            let info: libc::in6_pktinfo = unsafe { ptr::read_unaligned(data.cast()) };
            let multicast = info.ipi6_addr.s6_addr[0] == 0xff;
            (!multicast).then_some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
        }
        _ => None,
    }
}

impl Control {
    /// Writes the control messages that set the source address to `ip` and the segment size to
    /// `segment` bytes. Returns their length.
    fn set(&mut self, ip: Option<IpAddr>, segment: Option<u16>) -> usize {
        let used = match ip {
            None => 0,
            Some(IpAddr::V4(ip)) => {
                let address = libc::in_addr {
                    s_addr: u32::from_ne_bytes(ip.octets()),
                };
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: address,
                    ipi_addr: address,
                };
                self.write(0, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            Some(IpAddr::V6(ip)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: ip.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                self.write(0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        };
        segment.map_or(used, |size| {
            self.write(used, libc::SOL_UDP, libc::UDP_SEGMENT, size)
        })
    }

    /// Writes a message at `offset`, which is 0 or an earlier return value. Returns the offset of
    /// the next one.
    fn write<T>(&mut self, offset: usize, level: c_int, kind: c_int, value: T) -> usize {
        let size = size_of::<T>() as u32;
        // SAFETY: CMSG_LEN only computes.
        let len = unsafe { libc::CMSG_LEN(size) };
        // SAFETY: CMSG_SPACE only computes.
        let space = unsafe { libc::CMSG_SPACE(size) };
        let end = offset + space as usize;
        assert!(
            end <= CONTROL_LEN,
            "the buffer holds one of the two pktinfo structures and the size of a segment"
        );
        let header: *mut cmsghdr = self.0[offset..].as_mut_ptr().cast();
        let new = cmsghdr {
            cmsg_len: len as _,
            cmsg_level: level,
            cmsg_type: kind,
        };
        // SAFETY: `Control` and every CMSG_SPACE are aligned for a `cmsghdr`, and there is room for
        // one, as asserted.
        unsafe { header.write(new) };
        // SAFETY: CMSG_DATA only computes the address behind the header.
        let data: *mut T = unsafe { libc::CMSG_DATA(header) }.cast();
        // SAFETY: the buffer has room for a `T` behind the header, as asserted; it may be
        // unaligned.
        unsafe { data.write_unaligned(value) };
        end
    }
}

impl Packet {
    /// Makes an empty packet that receives up to `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            buffer: vec![0; max].into_boxed_slice(),
            size: 0,
            sender: RawAddr::unnamed(),
            local: None,
        }
    }

    /// Returns the received bytes, up to the size of the buffer.
    pub(crate) fn data(&self) -> &[u8] {
        &self.buffer[..self.size.min(self.buffer.len())]
    }

    /// Returns the size of the datagram as it was sent.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    pub(crate) const fn is_truncated(&self) -> bool {
        self.size > self.buffer.len()
    }
}

impl RawAddr {
    const fn unnamed() -> Self {
        // SAFETY: `sockaddr_storage` is a C struct of integers; all zero is an address of no
        // family.
        let storage = unsafe { zeroed() };
        Self { storage, len: 0 }
    }

    /// Returns whether the sender has no address to reply to (an unbound Unix socket).
    pub(crate) const fn is_unnamed(&self) -> bool {
        self.len as usize <= size_of::<libc::sa_family_t>()
    }

    /// Returns the internet address, if it is one (ip(7), ipv6(7)).
    pub(crate) fn inet(&self) -> Option<SocketAddr> {
        let bytes = self.bytes();
        let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
                Some((ip, port).into())
            }
            libc::AF_INET6 => {
                let word = |at: usize| bytes.get(at..)?.first_chunk().copied();
                let (flow, scope) = (word(4)?, word(24)?);
                let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
                // As the kernel stores them: the flow in network byte order, the scope in host byte
                // order.
                let (flow, scope) = (u32::from_ne_bytes(flow), u32::from_ne_bytes(scope));
                Some(SocketAddrV6::new(ip.into(), port, flow, scope).into())
            }
            _ => None,
        }
    }

    /// Returns whether it is an internet address with port 0, to which no datagram can be sent.
    pub(crate) fn has_no_port(&self) -> bool {
        self.inet().is_some_and(|addr| addr.port() == 0)
    }

    /// Returns the address as the kernel wrote it.
    fn bytes(&self) -> &[u8] {
        let len = (self.len as usize).min(size_of::<libc::sockaddr_storage>());
        // SAFETY: any part of a C struct of integers that was all zero at first is initialised.
        unsafe { std::slice::from_raw_parts(ptr::from_ref(&self.storage).cast(), len) }
    }

    pub(crate) fn to_sock_addr(self) -> SockAddr {
        let init = |storage: *mut socket2::SockAddrStorage, len: *mut socklen_t| {
            // SAFETY: `SockAddrStorage` is a `sockaddr_storage` (it is `repr(transparent)`), and
            // the pointer is valid.
            unsafe { storage.cast::<libc::sockaddr_storage>().write(self.storage) };
            // SAFETY: the pointer is valid for the length of the call.
            unsafe { len.write(self.len) };
            Ok(())
        };
        // SAFETY: `init` writes all of the address and its length, which the kernel has given with
        // it.
        let ((), addr) = unsafe { SockAddr::try_init(init) }.expect("the closure returns Ok");
        addr
    }
}

impl PartialEq for RawAddr {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl From<SockAddr> for RawAddr {
    fn from(addr: SockAddr) -> Self {
        // SAFETY: `SockAddrStorage` is a `sockaddr_storage` (it is `repr(transparent)`), valid
        // while `addr` lives.
        let storage = unsafe { addr.as_ptr().cast::<libc::sockaddr_storage>().read() };
        Self {
            storage,
            len: addr.len(),
        }
    }
}

impl fmt::Debug for RawAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_sock_addr().fmt(f)
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            buffer: _,
            size,
            sender,
            local,
        } = self;
        let mut debug = f.debug_struct("Packet");
        debug
            .field("size", size)
            .field("sender", sender)
            .field("local", local)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internet_address_is_what_the_kernel_wrote() {
        for text in [
            "192.0.2.1:7",
            "127.0.0.1:0",
            "[2001:db8::1]:65535",
            "[::]:0",
        ] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddr::from(SockAddr::from(addr)).inet(), Some(addr));
        }
        let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let zoned = SocketAddr::from(SocketAddrV6::new(ip, 7, 5, 3));
        assert_eq!(RawAddr::from(SockAddr::from(zoned)).inet(), Some(zoned));
        let path = SockAddr::unix("/run/socket").unwrap();
        assert_eq!(RawAddr::from(path).inet(), None);
    }
}
