//! Session tickets (RFC 8446, section 4.6.1; RFC 5077), with keys that all processes of a server
//! derive from one secret, and that rotate.
//!
//! Each key belongs to a slot of time. The secret of a slot is a one-way function of the secret of
//! the slot before, so processes that were forked from one another have the same keys without a
//! word, and a process that is read out later reveals no key of a slot that is over.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

use crate::tls::files::invalid;

/// How long a key encrypts tickets. It decrypts them for as long again.
const ROTATION: Duration = Duration::from_secs(6 * 3600);

/// The keys of tickets. Made before the server forks.
#[derive(Debug)]
pub(super) struct Tickets {
    start: Instant,
    keys: Mutex<Keys>,
}

/// The keys of one slot and the slot before.
struct Keys {
    slot: u64,
    secret: Secret,
    current: LessSafeKey,
    previous: Option<LessSafeKey>,
}

type Secret = [u8; 32];

impl Tickets {
    pub(super) fn new() -> std::io::Result<Self> {
        let mut secret = Secret::default();
        SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| invalid("the system has no random numbers"))?;
        Ok(Self {
            start: Instant::now(),
            keys: Mutex::new(Keys::new(secret)),
        })
    }

    fn slot(&self) -> u64 {
        self.start.elapsed().as_secs() / ROTATION.as_secs()
    }

    /// Runs `work` with the keys of a slot, or of a later one that another thread has begun.
    fn with_keys<R>(&self, slot: u64, work: impl FnOnce(&Keys) -> R) -> R {
        // A panic leaves the keys whole.
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        while keys.slot < slot {
            keys.advance();
        }
        work(&keys)
    }

    /// A ticket: the slot, the nonce, the encrypted session.
    fn encrypt(&self, slot: u64, settings: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        self.with_keys(slot, |keys| {
            let mut ticket = keys.slot.to_be_bytes().to_vec();
            ticket.extend_from_slice(&nonce);
            let nonce = Nonce::assume_unique_for_key(nonce);
            keys.current
                .seal_in_place_append_tag(nonce, Aad::from(settings), &mut sealed)
                .ok()?;
            ticket.append(&mut sealed);
            Some(ticket)
        })
    }

    fn decrypt(&self, now: u64, settings: &[u8], ticket: &[u8]) -> Option<Vec<u8>> {
        let (slot, rest) = ticket.split_first_chunk()?;
        let (nonce, sealed) = rest.split_first_chunk()?;
        let (slot, nonce) = (
            u64::from_be_bytes(*slot),
            Nonce::assume_unique_for_key(*nonce),
        );
        let mut sealed = sealed.to_vec();
        self.with_keys(now, |keys| {
            let key = match keys.slot.checked_sub(slot)? {
                0 => &keys.current,
                1 => keys.previous.as_ref()?,
                _ => return None,
            };
            let plain = key.open_in_place(nonce, Aad::from(settings), &mut sealed);
            plain.ok().map(|plain| plain.to_vec())
        })
    }
}

impl Keys {
    fn new(secret: Secret) -> Self {
        Self {
            slot: 0,
            secret,
            current: key(&secret),
            previous: None,
        }
    }

    fn advance(&mut self) {
        self.slot += 1;
        self.secret = derive(&self.secret, b"next slot");
        let current = key(&self.secret);
        self.previous = Some(std::mem::replace(&mut self.current, current));
    }
}

fn derive(secret: &Secret, label: &[u8]) -> Secret {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), label);
    let mut derived = Secret::default();
    derived.copy_from_slice(tag.as_ref());
    derived
}

fn key(secret: &Secret) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, &derive(secret, b"ticket key"));
    LessSafeKey::new(key.expect("the secret has the length of a key"))
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

/// The tickets of a configuration. Its settings are authenticated, so a ticket that was made under
/// other rules for clients resumes no session.
#[derive(Debug)]
pub(super) struct Ticketer {
    pub(super) tickets: Arc<Tickets>,
    pub(super) settings: Vec<u8>,
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        ROTATION.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets
            .encrypt(self.tickets.slot(), &self.settings, plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.tickets
            .decrypt(self.tickets.slot(), &self.settings, ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(secret: Secret) -> Tickets {
        Tickets {
            start: Instant::now(),
            keys: Mutex::new(Keys::new(secret)),
        }
    }

    #[test]
    fn processes_with_one_secret_have_the_same_keys_in_each_slot() {
        let (one, other) = (tickets([7; 32]), tickets([7; 32]));
        for slot in [0, 1, 5] {
            let ticket = one.encrypt(slot, b"rules", b"session").unwrap();
            assert_eq!(
                other.decrypt(slot, b"rules", &ticket).as_deref(),
                Some(&b"session"[..])
            );
        }
        let stranger = tickets([8; 32]);
        let ticket = stranger.encrypt(5, b"rules", b"session").unwrap();
        assert_eq!(other.decrypt(5, b"rules", &ticket), None);
    }

    #[test]
    fn a_ticket_is_good_for_its_slot_and_the_next() {
        let tickets = tickets([7; 32]);
        let ticket = tickets.encrypt(3, b"", b"session").unwrap();
        assert!(tickets.decrypt(3, b"", &ticket).is_some());
        assert!(tickets.decrypt(4, b"", &ticket).is_some());
        assert_eq!(tickets.decrypt(5, b"", &ticket), None);
    }

    #[test]
    fn a_ticket_of_other_settings_or_bytes_is_refused() {
        let tickets = tickets([7; 32]);
        let mut ticket = tickets.encrypt(0, b"one", b"session").unwrap();
        assert_eq!(tickets.decrypt(0, b"other", &ticket), None);
        for length in 0..ticket.len() {
            assert_eq!(tickets.decrypt(0, b"one", &ticket[..length]), None);
        }
        let last = ticket.len() - 1;
        ticket[last] ^= 1;
        assert_eq!(tickets.decrypt(0, b"one", &ticket), None);
    }
}
