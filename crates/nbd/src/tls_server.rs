//! TLS of a listener: what it shows and asks for, and the way from a client's first byte into it.
//!
//! Before TLS a client learns nothing: every option but STARTTLS and ABORT is refused, the list of exports too. What it
//! sent in the open is never taken for what it says within: the buffer of plain bytes must be empty when TLS begins, and
//! is dropped there. Whoever has sent more than STARTTLS by then is hung up on.
//!
//! No session is resumed: each connection shows its certificate, which is verified against what holds then.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::handshake_wire::{self as wire, ClientFlags, OptionHeader, option, reply};
use super::listener::Stream;
use super::receive_buffer::Window;
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, ResultExt as _};

/// Most options that a client may send before TLS.
const OPTIONS_MAX: usize = 16;
/// Most certificates that are read from one file.
const PEM_ITEMS_MAX: usize = 1000;

/// The contents of the files that a listener by TLS is made of, in PEM form.
#[derive(Clone, Copy, Debug)]
pub struct TlsPem<'a> {
    /// The server's certificate, then those between it and its authority.
    pub certificate: &'a [u8],
    pub key: &'a [u8],
    /// Authorities for clients' certificates. None: clients show none.
    pub client_ca: Option<&'a [u8]>,
    /// A client without a certificate is let in too. One with a wrong certificate never is.
    pub optional: bool,
}

/// Certificate of a listener by TLS, and its demands on clients.
#[derive(Clone, Debug)]
pub struct TlsServer {
    config: Arc<ServerConfig>,
    /// The server's own certificate.
    shown: CertificateDer<'static>,
}

/// The runtime's clock, by which certificates expire.
#[derive(Debug)]
pub(super) struct Clock(pub Rt);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_millis(self.0.wall_ms())))
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |why: &dyn std::fmt::Display| {
        Error::new(Kind::Usage, format!("{what} is not a file of certificates in PEM form: {why}"))
    };
    let all = CertificateDer::pem_slice_iter(pem).take(PEM_ITEMS_MAX).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if all.is_empty() => Err(bad(&"there is none in it")),
        Ok(all) => Ok(all),
        Err(e) => Err(bad(&e)),
    }
}

impl TlsServer {
    /// Makes the configuration of a listener, for TLS 1.3, and 1.2 for older clients. `Kind::Usage`: a file
    /// can't be used.
    pub fn new(rt: &Rt, pem: TlsPem<'_>) -> Result<TlsServer> {
        let unusable = |what: &str, why: &dyn std::fmt::Display| {
            Error::new(Kind::Usage, format!("{what} can't be used for TLS: {why}"))
        };
        let chain = certificates(pem.certificate, "the server's certificate")?;
        let shown = chain[0].clone();
        let key = PrivateKeyDer::from_pem_slice(pem.key).map_err(|e| {
            unusable("the server's key", &format_args!("{e}; give it in PEM form, without a passphrase"))
        })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(Clock(rt.clone())))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| unusable("this build", &e))?;
        let builder = match pem.client_ca {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for one in certificates(authorities, "the clients' authority")? {
                    roots.add(one).map_err(|e| unusable("the clients' authority", &e))?;
                }
                // Not told to who comes: clients have one certificate for this server, or none.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = verifier.clear_root_hint_subjects();
                let verifier = if pem.optional { verifier.allow_unauthenticated() } else { verifier };
                let verifier = verifier.build().map_err(|e| unusable("the clients' authority", &e))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|e| unusable("the server's certificate with its key", &e))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(TlsServer { config: Arc::new(config), shown })
    }

    /// Returns the end of the server's certificate in ms since 1970, when it ends before `by_ms`.
    pub fn ends_before(&self, by_ms: u64) -> Option<u64> {
        let certificate = webpki::EndEntityCert::try_from(&self.shown).ok()?;
        let by = UnixTime::since_unix_epoch(std::time::Duration::from_millis(by_ms));
        // Its times are looked at before anything else. Whose it is doesn't matter here: no authority is given.
        let (algorithms, usage) = (webpki::ALL_VERIFICATION_ALGS, webpki::KeyUsage::server_auth());
        match certificate.verify_for_usage(algorithms, &[], &[], by, usage, None, None).map(drop) {
            Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after.as_secs() * 1000),
            _ => None,
        }
    }

    /// Takes a client from the greeting into TLS. Returns the client's answer to the greeting as well; `None`
    /// when it left.
    pub async fn accept<S: Stream>(&self, mut stream: S) -> Result<Option<(TlsStream<S>, ClientFlags)>> {
        let Some(client) = before_tls(&mut stream).await? else { return Ok(None) };
        let accepted = TlsAcceptor::from(self.config.clone()).accept(stream).await;
        let stream = accepted.context(|| "the TLS handshake".into())?;
        Ok(Some((stream, client)))
    }
}

/// The step that follows an option before TLS.
enum Next {
    Option,
    Tls,
    Leave,
}

/// Haggles until TLS begins, and drops the buffer of plain bytes. `None` when the client left.
async fn before_tls<S: Stream>(stream: &mut S) -> Result<Option<ClientFlags>> {
    let mut window = Window::new();
    let mut greeting = Vec::with_capacity(wire::GREETING_BYTES);
    wire::put_greeting(&mut greeting);
    stream.write_all(&greeting).await?;
    let client = ClientFlags::parse(window.take(stream).await?)?;
    if !client.fixed {
        return Err(refused("the client can't begin TLS: it did not choose fixed newstyle"));
    }
    for _ in 0..OPTIONS_MAX {
        let header = OptionHeader::parse(&window.take(stream).await?)?;
        if header.len as usize > wire::OPTION_DATA_MAX {
            return Err(refused(format!("an option of {} bytes came before TLS", header.len)));
        }
        window.drain(stream, header.len.into()).await?;
        let (answer, next) = answer_before_tls(header)?;
        // Bytes that came in the open must never be taken for the client's words within TLS.
        if matches!(next, Next::Tls) && !window.bytes().is_empty() {
            return Err(refused("the client sent bytes in the open behind STARTTLS"));
        }
        let sent = stream.write_all(&answer).await;
        match next {
            Next::Option => sent?,
            Next::Tls => return sent.map(|()| Some(client)).map_err(Error::from),
            // Many clients close without waiting for the answer to ABORT.
            Next::Leave => return Ok(None),
        }
    }
    Err(refused(format!("the client sent {OPTIONS_MAX} options and did not begin TLS")))
}

fn answer_before_tls(header: OptionHeader) -> Result<(Vec<u8>, Next)> {
    let (code, mut out) = (header.option, Vec::new());
    let next = match (code, header.len) {
        // It has no answer but yes.
        (option::EXPORT_NAME, _) => return Err(refused("the client asked for an export before TLS")),
        (option::ABORT, _) => {
            wire::put_reply(&mut out, code, reply::ACK, &[]);
            Next::Leave
        }
        (option::STARTTLS, 0) => {
            wire::put_reply(&mut out, code, reply::ACK, &[]);
            Next::Tls
        }
        (option::STARTTLS, _) => {
            wire::put_refusal(&mut out, code, reply::ERR_INVALID, "the option takes no data");
            Next::Option
        }
        _ => {
            wire::put_refusal(&mut out, code, reply::ERR_TLS_REQD, "begin TLS first");
            Next::Option
        }
    };
    Ok((out, next))
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, why)
}

impl<S: Stream> Stream for TlsStream<S> {
    fn is_broken(&self) -> bool {
        self.get_ref().0.is_broken()
    }

    fn into_fd(self) -> io::Result<OwnedFd> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the keys of TLS stay in this process"))
    }
}

/// Returns the names in the certificate that the client has shown; `None` if it has shown none.
pub fn peer_names<S>(stream: &TlsStream<S>) -> Option<Vec<String>> {
    stream.get_ref().1.peer_certificates()?.first().map(names)
}

/// Returns the common names of the subject, and the DNS names, of a certificate that was verified.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let mut names = common_names(certificate.subject());
    names.extend(certificate.valid_dns_names().map(str::to_owned));
    names
}

/// Returns the common names in a subject in DER: a sequence of sets of pairs of an object identifier and a
/// text.
fn common_names(mut subject: &[u8]) -> Vec<String> {
    const SEQUENCE: u8 = 0x30;
    const SET: u8 = 0x31;
    const IDENTIFIER: u8 = 0x06;
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    // UTF8String, PrintableString, IA5String.
    const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];
    let mut names = Vec::new();
    while let Some((SET, mut set)) = der_item(&mut subject) {
        while let Some((SEQUENCE, mut pair)) = der_item(&mut set) {
            let (Some((IDENTIFIER, COMMON_NAME)), Some((tag, text))) =
                (der_item(&mut pair), der_item(&mut pair))
            else {
                continue;
            };
            if TEXTS.contains(&tag)
                && let Ok(text) = std::str::from_utf8(text)
            {
                names.push(text.to_owned());
            }
        }
    }
    names
}

/// Takes the tag and content of the next item. An item whose length takes more than two bytes is no item
/// here: subjects are short.
fn der_item<'a>(from: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (len, rest) = match **from {
        [_, len @ 0..=0x7f, ref rest @ ..] => (usize::from(len), rest),
        [_, 0x81, len, ref rest @ ..] => (usize::from(len), rest),
        [_, 0x82, high, low, ref rest @ ..] => (usize::from(u16::from_be_bytes([high, low])), rest),
        _ => return None,
    };
    let tag = from[0];
    let (content, rest) = rest.split_at_checked(len)?;
    *from = rest;
    Some((tag, content))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_names_are_found_in_a_subject() {
        let pair = |oid: &[u8], tag: u8, text: &[u8]| {
            let inner = [&[6, oid.len() as u8], oid, &[tag, text.len() as u8], text].concat();
            let pair = [&[0x30, inner.len() as u8][..], &inner].concat();
            [&[0x31, pair.len() as u8][..], &pair].concat()
        };
        let subject = [
            pair(&[0x55, 4, 10], 0x0c, b"Example"),
            pair(&[0x55, 4, 3], 0x13, b"web-1"),
            pair(&[0x55, 4, 3], 0x0c, "zwölf".as_bytes()),
            // UTF-16, and a text that is none.
            pair(&[0x55, 4, 3], 0x1e, &[0, b'x']),
            pair(&[0x55, 4, 3], 0x0c, &[0xff]),
        ];
        assert_eq!(common_names(&subject.concat()), ["web-1", "zwölf"]);
        // Cut anywhere: no more than was there.
        let whole = subject.concat();
        for cut in 0..whole.len() {
            assert!(common_names(&whole[..cut]).len() <= 2);
        }
    }

    proptest! {
        #[test]
        fn subjects_may_be_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = common_names(&bytes);
            let _ = names(&CertificateDer::from(bytes));
        }
    }
}
