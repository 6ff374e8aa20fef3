//! TLS: served, reloaded, refused; and those who do not speak it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use rcgen::CertifiedKey;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tests::guests;
use tests::host::flags;
use tests::process::HostProcess;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use wattle::http::{Connections, Reloader, Tls, TlsError};

/// A certificate and its key, in files.
pub struct Pair {
    pub folder: tempfile::TempDir,
    pub der: CertificateDer<'static>,
}

impl Pair {
    pub fn new() -> anyhow::Result<Self> {
        Self::named(&["localhost", "127.0.0.1"])
    }

    pub fn named(names: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let der = renew(
            names,
            &folder.path().join("cert.pem"),
            &folder.path().join("key.pem"),
        )?;
        Ok(Self { folder, der })
    }

    pub fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}

/// Writes a new certificate and its key.
fn renew(names: &[&str], cert_file: &Path, key_file: &Path) -> anyhow::Result<CertificateDer<'static>> {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
    std::fs::write(cert_file, cert.pem())?;
    std::fs::write(key_file, signing_key.serialize_pem())?;
    Ok(cert.der().clone())
}

/// Longer than any test.
pub const LONG: Duration = Duration::from_secs(3_600);

/// A listener with `tls` that says hello, and panics elsewhere, for up to `max` callers at once.
pub async fn hello(
    tls: Option<Tls>,
    max: u32,
    patience: Duration,
) -> anyhow::Result<(SocketAddr, CancellationToken)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, stop) = (listener.local_addr()?, CancellationToken::new());
    let panics = async || -> &'static str { panic!("as it was asked to") };
    let router = Router::new()
        .route("/", get(async || "hello"))
        .route("/panics", get(panics));
    let allowed = Connections {
        max,
        header_timeout: patience,
        stall_timeout: LONG,
        body_timeout: LONG,
    };
    tokio::spawn(wattle::http::serve(listener, tls, router, allowed, stop.clone()));
    Ok((address, stop))
}

#[tokio::test]
async fn a_handler_that_panics_takes_no_connection_with_it() -> anyhow::Result<()> {
    let (address, _stop) = hello(None, 1, LONG).await?;
    let mut stream = TcpStream::connect(address).await?;
    for (path, then) in [("/panics", "keep-alive"), ("/", "close")] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: {then}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
    }
    let mut replies = String::new();
    stream.read_to_string(&mut replies).await?;
    assert!(
        replies.starts_with("HTTP/1.1 500 ") && replies.contains(r#""code":"internal""#),
        "{replies}"
    );
    assert!(replies.ends_with("hello"), "{replies}");
    Ok(())
}

async fn over_tls(pair: &Pair) -> anyhow::Result<(SocketAddr, Reloader, CancellationToken)> {
    let (tls, reloader) = Tls::open(pair.cert(), pair.key())?;
    let (address, stop) = hello(Some(tls), 8, LONG).await?;
    Ok((address, reloader, stop))
}

/// A connection that trusts `root` alone.
async fn connect(
    address: SocketAddr,
    root: &CertificateDer<'static>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::new(config));
    Ok(connector
        .connect(ServerName::try_from("localhost")?, stream)
        .await?)
}

/// One request on a connection that stays.
async fn ask(stream: &mut TlsStream<TcpStream>) -> anyhow::Result<()> {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await?;
    let (mut reader, mut line, mut length) = (BufReader::new(stream), String::new(), 0);
    reader.read_line(&mut line).await?;
    anyhow::ensure!(line.starts_with("HTTP/1.1 200"), "{line:?}");
    while line != "\r\n" {
        if let Some(bytes) = line.strip_prefix("content-length: ") {
            length = bytes.trim().parse()?;
        }
        line.clear();
        reader.read_line(&mut line).await?;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    anyhow::ensure!(body == b"hello", "{body:?}");
    Ok(())
}

#[tokio::test]
async fn a_new_certificate_is_served_while_old_connections_live() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let (address, reloader, _stop) = over_tls(&pair).await?;
    let mut old = connect(address, &pair.der).await?;
    ask(&mut old).await?;

    let reloading = tokio::spawn(async move { reloader.run(&Notify::new()).await });
    let renewed = renew(&["localhost"], &pair.cert(), &pair.key())?;
    // Only the files' change tells: whoever trusts the new one alone gets through after a look or two.
    let mut new = loop {
        match connect(address, &renewed).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    ask(&mut new).await?;
    ask(&mut old).await?;
    assert!(
        connect(address, &pair.der).await.is_err(),
        "the old certificate is gone"
    );
    reloading.abort();
    Ok(())
}

#[tokio::test]
async fn a_bad_new_pair_leaves_the_old_one_in_service() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let (address, mut reloader, _stop) = over_tls(&pair).await?;
    let (cert, key) = (std::fs::read(pair.cert())?, std::fs::read(pair.key())?);

    let other = Pair::new()?;
    std::fs::copy(other.cert(), pair.cert())?;
    assert!(
        matches!(reloader.reload(), Err(TlsError::Pair { .. })),
        "a stranger's key"
    );
    std::fs::write(pair.cert(), &cert[..cert.len() / 2])?;
    assert!(
        matches!(reloader.reload(), Err(TlsError::File { .. })),
        "half a certificate"
    );
    std::fs::write(pair.cert(), "")?;
    assert!(
        matches!(reloader.reload(), Err(TlsError::File { .. })),
        "no certificate"
    );
    std::fs::write(pair.cert(), &cert)?;
    std::fs::remove_file(pair.key())?;
    assert!(matches!(reloader.reload(), Err(TlsError::File { .. })), "no key");
    ask(&mut connect(address, &pair.der).await?).await?;

    std::fs::write(pair.key(), &key)?;
    reloader.reload()?;
    std::fs::copy(other.cert(), pair.cert())?;
    std::fs::copy(other.key(), pair.key())?;
    reloader.reload()?;
    ask(&mut connect(address, &other.der).await?).await
}

#[test]
fn a_host_does_not_start_with_a_key_that_is_not_the_certificates() -> anyhow::Result<()> {
    let (pair, other) = (Pair::new()?, Pair::new()?);
    let data = tempfile::tempdir()?;
    let output = Command::new(guests::wattle()?)
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .args([Path::new("--data"), data.path()])
        .args([
            Path::new("--tls-cert"),
            &pair.cert(),
            Path::new("--tls-key"),
            &other.key(),
        ])
        .output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("KeyMismatch") && said.contains(&*other.key().to_string_lossy()),
        "{said}"
    );
    assert!(
        !data.path().join("pg").exists(),
        "it looks before it starts anything"
    );
    Ok(())
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_told_so() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let (address, _reloader, _stop) = over_tls(&pair).await?;
    let answer = tests::Client::new(format!("http://{address}"), None)
        .get("/")
        .await?;
    let detail = tests::client::problem(&answer, 400, "tls_required")?;
    assert!(detail.contains("https://"), "{detail}");
    Ok(())
}

#[tokio::test]
async fn who_stalls_a_handshake_delays_nobody_and_is_cut_off() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let (address, _reloader, _stop) = over_tls(&pair).await?;
    let mut stalled = TcpStream::connect(address).await?;
    // The head of a handshake record of which nothing follows.
    stalled.write_all(&[22, 3, 1, 2, 0]).await?;
    ask(&mut connect(address, &pair.der).await?).await?;

    // A handshake has a place like any connection: where there is one place, the next caller gets its turn
    // because the time of the first is up.
    let (tls, _reloader) = Tls::open(pair.cert(), pair.key())?;
    let (address, _stop) = hello(Some(tls), 1, Duration::from_millis(200)).await?;
    let mut stalled = TcpStream::connect(address).await?;
    stalled.write_all(&[22, 3, 1, 2, 0]).await?;
    ask(&mut connect(address, &pair.der).await?).await?;
    let mut rest = Vec::new();
    assert_eq!(
        stalled.try_read_buf(&mut rest)?,
        0,
        "the host has hung up: {rest:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_host_that_stops_waits_for_no_handshake() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let (tls, _reloader) = Tls::open(pair.cert(), pair.key())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let allowed = Connections {
        max: 4,
        header_timeout: LONG,
        stall_timeout: LONG,
        body_timeout: LONG,
    };
    let serving = tokio::spawn(wattle::http::serve(
        listener,
        Some(tls),
        Router::new(),
        allowed,
        stop.clone(),
    ));
    let _silent = TcpStream::connect(address).await?;
    // Both are in the backlog's order: when the second is through, the first is in its handshake.
    drop(connect(address, &pair.der).await?);
    stop.cancel();
    serving.await?;
    Ok(())
}

#[test]
fn an_address_for_others_needs_tls_or_a_word() -> anyhow::Result<()> {
    let (data, pair) = (tempfile::tempdir()?, Pair::new()?);
    let (cert, key) = (
        pair.cert().display().to_string(),
        pair.key().display().to_string(),
    );
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    for (more, right) in [
        (&["--listen", "0.0.0.0:8700"][..], false),
        (&["--admin-listen", "[::]:8701"], false),
        (&["--listen", "0.0.0.0:8700", "--insecure"], true),
        (
            &[
                &tls[..],
                &["--listen", "0.0.0.0:8700", "--admin-listen", "[::]:8701"],
            ]
            .concat(),
            true,
        ),
        (&tls[..2], false),
        (&tls[2..], false),
        (&tls, true),
    ] {
        assert_eq!(flags(data.path(), more)?.check().is_ok(), right, "{more:?}");
    }
    Ok(())
}

/// The whole of it: the program, its command line, and a signal.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_speaks_tls_to_a_host_that_is_told_of_a_new_certificate() -> anyhow::Result<()> {
    let pair = Pair::new()?;
    let mut host = HostProcess::new()?;
    let (cert, key) = (
        pair.cert().display().to_string(),
        pair.key().display().to_string(),
    );
    host.add_flags(&["--tls-cert", &cert, "--tls-key", &key]);
    host.start("standard", None).await?;
    let url = host
        .client(None)?
        .url("")
        .replace("http://127.0.0.1", "https://localhost");
    let bootstrap = host.bootstrap_key()?;
    let create = || {
        Command::new(guests::wattle()?)
            .args([
                "--url",
                &url,
                "--ca-file",
                &cert,
                "--key",
                &bootstrap,
                "key",
                "create",
                "me",
                "--role",
                "admin",
            ])
            .output()
            .map_err(anyhow::Error::from)
    };
    // Until the host has heeded the signal, its certificate is not the one in the file.
    renew(&["localhost"], &pair.cert(), &pair.key())?;
    host.hang_up()?;
    let mut output = create()?;
    while !output.status.success() {
        let said = String::from_utf8(output.stderr)?;
        assert!(said.contains("--ca-file"), "{said}");
        output = create()?;
    }
    let check = Command::new(guests::wattle()?)
        .args([
            "--url",
            &url,
            "--ca-file",
            &cert,
            "--key",
            String::from_utf8(output.stdout)?.trim(),
        ])
        .args(["ledger", "balance"])
        .output()?;
    assert!(check.status.success(), "{}", String::from_utf8(check.stderr)?);
    host.terminate().await
}
