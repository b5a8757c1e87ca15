//! Where the endpoint listens: a TCP address or a Unix socket.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const UNIX_PREFIX: &str = "unix:";

/// A checked address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port; port 0 is any free one.
    Tcp(SocketAddr),
    /// The path of a socket, which only its owner may open.
    Unix(PathBuf),
}

impl Address {
    /// Reads `127.0.0.1:6060`, `[::1]:0` or `unix:/run/app/rprof.sock`; `{pid}` in a path is filled
    /// in.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
            let path = path.replace("{pid}", &std::process::id().to_string());
            if !path.starts_with('/') || path.contains('\0') {
                return Err(Error::value(format!(
                    "address={text:?} names no absolute path; use for example \
                     'unix:/run/app/rprof.sock'"
                )));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let text_with_address = text.replace("localhost:", "127.0.0.1:");
        text_with_address.parse().map(Self::Tcp).map_err(|_| {
            Error::value(format!(
                "address={text:?} is no address; use '127.0.0.1:0' (any free port), \
                 '127.0.0.1:6060' or 'unix:/run/app/rprof.sock'"
            ))
        })
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

/// The file of a Unix socket; removed with this.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
}

impl SocketFile {
    /// Listens at `path`, readable by the owner only from its first moment.
    ///
    /// # Errors
    /// When something else is there, a living server among it, or the socket cannot be made.
    pub fn bind(path: &Path) -> Result<(Self, std::os::unix::net::UnixListener)> {
        let failed = |error: &io::Error| {
            Error::os(format!("cannot listen on unix:{}", path.display()), error)
        };
        if let Ok(about) = fs::symlink_metadata(path) {
            if !about.file_type().is_socket() {
                return Err(failed(&io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file that is no socket; choose another path",
                )));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(failed(&io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another server listens there; use {pid} in the path",
                )));
            }
        }
        // Its final name it gets when nobody else can open it any more.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let _: io::Result<()> = fs::remove_file(&temporary);
        let listener =
            std::os::unix::net::UnixListener::bind(&temporary).map_err(|error| failed(&error))?;
        let placed = fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&temporary, path));
        if let Err(error) = placed {
            let _: io::Result<()> = fs::remove_file(&temporary);
            return Err(failed(&error));
        }
        Ok((
            Self {
                path: path.to_owned(),
            },
            listener,
        ))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it before.
        let _: io::Result<()> = fs::remove_file(&self.path);
    }
}
