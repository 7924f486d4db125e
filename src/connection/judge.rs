//! The judgement of a peer: the access rules, and the limits of one address and of one user.

use std::net::IpAddr;

use crate::address::Address;
use crate::admission::peers::Peer;
use crate::connection::life::Service;
use crate::net::Managed;
use crate::observe::events::RefuseReason;

impl<R: Managed> Service<R> {
    /// Judges the peer of a connection or datagram as [`Accepted::peer`](crate::net::Accepted::peer)
    /// names it now, and counts a connection for this peer alone. An error is the reason to refuse.
    ///
    /// A connection whose peer gets another address later can be judged again.
    pub(crate) fn judge(&self, request: &R) -> Result<(), RefuseReason> {
        let (rules, limits) = (
            self.shared.admission.rules(),
            self.shared.admission.limits(),
        );
        if !rules.are_set() && limits.per_address().is_none() && limits.per_user().is_none() {
            return Ok(());
        }
        match request.peer() {
            Address::Inet(addr) => self.judge_address(request, addr.ip()),
            Address::Unix(_) => self.judge_user(request),
            Address::Named(_) => Ok(()),
        }
    }

    fn judge_address(&self, request: &R, ip: IpAddr) -> Result<(), RefuseReason> {
        if !self.shared.admission.rules().admit_address(ip) {
            return Err(RefuseReason::Access);
        }
        let limit = self.shared.admission.limits().per_address();
        match limit {
            Some(limit) if !self.count(request, Peer::address(ip), limit) => {
                Err(RefuseReason::Address)
            }
            _ => Ok(()),
        }
    }

    /// Judges a peer whose user is unknown as the rules judge a user that they do not allow.
    fn judge_user(&self, request: &R) -> Result<(), RefuseReason> {
        let rules = self.shared.admission.rules();
        let limit = self.shared.admission.limits().per_user();
        let restricted = rules.are_set() && rules.restrict_users();
        if !restricted && limit.is_none() {
            return Ok(());
        }
        let peer = request.peer_credentials().ok();
        if restricted {
            let groups = |gid| {
                let mut groups = request.peer_groups().unwrap_or_default();
                groups.push(gid);
                groups
            };
            let admitted = peer.is_some_and(|peer| rules.admit_user(peer.uid, || groups(peer.gid)));
            if !admitted {
                return Err(RefuseReason::Access);
            }
        }
        match (limit, peer) {
            (Some(limit), Some(peer)) if !self.count(request, Peer::user(peer.uid), limit) => {
                Err(RefuseReason::User)
            }
            _ => Ok(()),
        }
    }

    fn count(&self, request: &R, peer: Peer, limit: u64) -> bool {
        let registry = &self.shared.registry;
        registry.count_peer(request.context(), peer, limit)
    }
}
