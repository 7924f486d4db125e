//! The judgement of a client: the access rules, the limits of one address and of one user, the rate, and
//! the `verify` hook.

use std::net::IpAddr;

use crate::address::Address;
use crate::admission::peers::Peer;
use crate::connection::life::Service;
use crate::counters::Ended;
use crate::error::HandlerError;
use crate::net::Managed;
use crate::observe::events::RefuseReason;
use crate::observe::hooks;
use crate::registry::info::Subject;

/// The token of the rate for a connection or datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The server has it, and returns it if the client is refused for itself.
    Taken,
    /// The server takes it once it knows that the client is not refused for itself.
    Due,
}

/// What the checks of a client say.
pub(super) enum Verdict {
    Admitted,
    Refused(RefuseReason),
}

impl<R: Managed> Service<R> {
    /// Whether a new connection or datagram is admitted. Counts, reports and refuses it otherwise.
    ///
    /// Behind a proxy that is to name its client, that client is judged once it has been named.
    pub(crate) fn admit(&self, request: &mut R) -> bool {
        let token = match self.shared.admission.limits().refuses() {
            true => Token::Due,
            // Taken before the accept.
            false => Token::Taken,
        };
        let checked = request.admit().map_err(Into::into);
        if checked.is_err() {
            self.return_token(token);
        }
        let verdict = checked.and_then(|()| match request.context().is_unjudged() {
            true => Ok(self.judge_proxy(request, token)),
            false => self.judge(request, token),
        });
        self.carry_out(request, verdict)
    }

    /// Judges the client of a connection or datagram as [`Accepted::peer`](crate::net::Accepted::peer) names it now,
    /// and counts a connection for this client alone. The only place for such checks; called once for each connection
    /// or datagram.
    pub(super) fn judge(&self, request: &R, token: Token) -> Result<Verdict, HandlerError> {
        if let Err(reason) = self.judge_peer(request) {
            self.return_token(token);
            return Ok(Verdict::Refused(reason));
        }
        let verdict = self.judge_rate(token);
        let (Verdict::Admitted, Some(verify)) = (&verdict, &self.hooks.verify) else {
            return Ok(verdict);
        };
        Ok(match hooks::call(|| verify(request))? {
            true => Verdict::Admitted,
            false => Verdict::Refused(RefuseReason::Verify),
        })
    }

    /// Returns whether a connection or datagram was admitted; counts, reports and refuses it otherwise.
    pub(super) fn carry_out(
        &self,
        request: &mut R,
        verdict: Result<Verdict, HandlerError>,
    ) -> bool {
        match verdict {
            Ok(Verdict::Admitted) => return true,
            Ok(Verdict::Refused(reason)) => {
                self.refused(request, reason);
                match reason {
                    RefuseReason::Access | RefuseReason::Verify => request.refuse(),
                    _ => request.refuse_with(&self.shared.admission.limits().refusal()),
                }
            }
            Err(err) => {
                self.fail(request, err);
                self.count_end(request, Ended::Failed);
                request.refuse();
            }
        }
        false
    }

    /// Judges a connection before its header has named the client: by the user at the socket, which no header changes.
    fn judge_proxy(&self, request: &R, token: Token) -> Verdict {
        let is_unix = || matches!(request.peer(), Address::Unix(_));
        if self.shared.admission.rules().are_set()
            && is_unix()
            && let Err(reason) = self.judge_user(request, false)
        {
            self.return_token(token);
            return Verdict::Refused(reason);
        }
        self.judge_rate(token)
    }

    /// Returns a token that was taken before the accept: the client is refused for itself.
    fn return_token(&self, token: Token) {
        if token == Token::Taken {
            self.shared.admission.limits().return_tokens(1);
        }
    }

    fn judge_rate(&self, token: Token) -> Verdict {
        if token == Token::Due && self.shared.admission.take_tokens(1) == 0 {
            Verdict::Refused(RefuseReason::Rate)
        } else {
            Verdict::Admitted
        }
    }

    /// Judges by the access rules and the limits. An error is the reason to refuse.
    fn judge_peer(&self, request: &R) -> Result<(), RefuseReason> {
        let (rules, limits) = (
            self.shared.admission.rules(),
            self.shared.admission.limits(),
        );
        if !rules.are_set() && limits.per_address().is_none() && limits.per_user().is_none() {
            return Ok(());
        }
        let (peer, proxy) = (request.peer(), request.via());
        // A user is that of the socket, whomever a proxy names.
        if let Address::Unix(_) = proxy.as_ref().unwrap_or(&peer) {
            self.judge_user(request, peer.ip().is_none())?;
        }
        // A client of a Unix socket that a proxy elsewhere names is judged by the address of the proxy.
        match peer.ip().or_else(|| proxy.as_ref().and_then(Address::ip)) {
            Some(ip) => self.judge_address(request, ip),
            None => Ok(()),
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

    /// Judges a peer whose user is unknown as the rules judge a user that they do not allow. `counts`: whether the
    /// connection counts for its user, and not for an address.
    fn judge_user(&self, request: &R, counts: bool) -> Result<(), RefuseReason> {
        let rules = self.shared.admission.rules();
        let limit = self.shared.admission.limits().per_user();
        let limit = limit.filter(|_| counts);
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
            (Some(_), None) if request.context().subject() == Subject::Connection => {
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
