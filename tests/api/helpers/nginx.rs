//! A real nginx in front of the server under test, on free ports, with the server's own certificate.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::free_port;

pub struct Nginx {
    child: Child,
    /// Deleted with it.
    _folder: TempDir,
}

/// One listener and where it leads.
pub struct Hop {
    pub listen: SocketAddr,
    /// An address, or `unix:` and the path of a socket.
    pub to: String,
    /// From which address nginx calls on; over a socket from none.
    pub from: &'static str,
    pub kind: HopKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HopKind {
    /// Ends TLS, and adds its caller to `X-Forwarded-For`.
    Http,
    /// Passes bytes on, with a line of the PROXY protocol before them.
    Stream,
}

impl Nginx {
    /// `tls` holds the certificates. `None` where there is no nginx.
    pub fn start(hops: &[Hop], tls: &Path) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, configuration(hops, tls, folder.path())).unwrap();
        let start = |program| {
            let mut command = Command::new(program);
            command.arg("-p").arg(folder.path()).arg("-c").arg(&path).args(["-e", "stderr"]).stdin(Stdio::null());
            command.spawn()
        };
        // Where Debian puts it, only root looks by himself.
        let child = match start("nginx").or_else(|_| start("/usr/sbin/nginx")) {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("skipped: no nginx here; scripts/setup.sh --tests installs it");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let nginx = Self { child, _folder: folder };
        let begin = Instant::now();
        while hops.iter().any(|hop| TcpStream::connect(hop.listen).is_err()) {
            assert!(begin.elapsed() < Duration::from_secs(30), "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// An address that nobody has.
pub fn free_address(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), free_port())
}

fn configuration(hops: &[Hop], tls: &Path, folder: &Path) -> String {
    let (folder, tls) = (folder.display(), tls.display());
    let servers = |kind| -> String {
        hops.iter()
            .filter(|hop| hop.kind == kind)
            .map(|Hop { listen, to, from, .. }| {
                let name = format!("to_{}", listen.port());
                let bind = if to.starts_with("unix:") { String::new() } else { format!("proxy_bind {from};") };
                match kind {
                    HopKind::Http => format!(
                        "upstream {name} {{ server {to}; }}
                server {{ listen {listen} ssl; ssl_certificate {tls}/server.pem; ssl_certificate_key {tls}/server.key;
                    location / {{
                        proxy_pass https://{name}; {bind} proxy_http_version 1.1;
                        proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                        proxy_ssl_trusted_certificate {tls}/ca.pem; proxy_ssl_verify on; proxy_ssl_name localhost;
                    }} }}\n"
                    ),
                    HopKind::Stream => {
                        format!("server {{ listen {listen}; proxy_pass {to}; {bind} proxy_protocol on; }}\n")
                    }
                }
            })
            .collect()
    };
    // One process and no master, so that nothing of it outlives its end.
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so; daemon off; master_process off; pid {folder}/pid;
        events {{ worker_connections 256; }}
        http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            {} }}
        stream {{ {} }}",
        servers(HopKind::Http),
        servers(HopKind::Stream)
    )
}
