//! An image on its way in: the raw body, or the part `image` of multipart/form-data.
//!
//! Taking an [`Upload`] reads nothing. The flow that awaits it decides when: after the consent was seen and memory for it
//! was set aside. The bytes go into memory that is wiped, never to disk.

use std::{
    future::{Ready, ready},
    time::Duration,
};

use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    error::PayloadError,
    http::header,
    web::{Bytes, Query},
};
use futures_util::{Stream, StreamExt as _};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::extract::{announced_bytes, media_type};
use crate::{
    domain::face::{MultipleFaces, UploadedImage},
    flows::incoming::{Incoming, IncomingError, IncomingFace},
};

/// Memory is not held for longer; a photo of the usual size needs a fraction on a bad line.
pub const RECEIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Boundaries, part headers and option fields around an image.
const MULTIPART_OVERHEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest body that any route reads.
pub const BODY_BYTES_MAX: usize = UploadedImage::BYTES_MAX + MULTIPART_OVERHEAD_BYTES_MAX;
const OPTION_BYTES_MAX: usize = 64;
/// `image` and the two options, and room for a client that sends an empty part.
const PARTS_MAX: usize = 4;
/// First allocation when the length is not announced; it doubles from there.
const UNANNOUNCED_BYTES: usize = 256 * 1024;

/// The options that a request of this kind knows.
pub const ENROLMENT_OPTIONS: &[&str] = &["on_multiple_faces"];
pub const VERIFICATION_OPTIONS: &[&str] = &["on_multiple_faces", "false_match_rate"];

pub struct Upload {
    request: HttpRequest,
    payload: Payload,
}

impl FromRequest for Upload {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(Ok(Self { request: request.clone(), payload: payload.take() }))
    }
}

impl Upload {
    pub fn incoming(
        self,
        known: &'static [&'static str],
    ) -> Incoming<impl Future<Output = Result<IncomingFace, IncomingError>>> {
        let announced = announced_bytes(&self.request).unwrap_or(UploadedImage::BYTES_MAX);
        Incoming { bytes_max: announced.min(UploadedImage::BYTES_MAX), face: self.receive(known) }
    }

    async fn receive(self, known: &'static [&'static str]) -> Result<IncomingFace, IncomingError> {
        timeout(RECEIVE_TIMEOUT, self.receive_at_any_pace(known)).await.unwrap_or(Err(IncomingError::TooSlow))
    }

    async fn receive_at_any_pace(self, known: &'static [&'static str]) -> Result<IncomingFace, IncomingError> {
        let mut options = Options::from_query(self.request.query_string(), known)?;
        // No request body is ever decompressed: a compressed one is refused, not stored.
        if self.request.headers().contains_key(header::CONTENT_ENCODING) {
            return Err(IncomingError::UnsupportedType);
        }
        let announced = announced_bytes(&self.request);
        let image = match media_type(&self.request).as_deref() {
            Some("multipart/form-data") => {
                refuse_beyond(announced, BODY_BYTES_MAX)?;
                let parts = Multipart::new(self.request.headers(), self.payload);
                read_parts(parts, announced, &mut options).await?
            }
            Some(kind) if is_image_type(kind) => {
                refuse_beyond(announced, UploadedImage::BYTES_MAX)?;
                read_image(self.payload.map(|chunk| chunk.map_err(interrupted)), announced).await?
            }
            _ => return Err(IncomingError::UnsupportedType),
        };
        options.into_face(image)
    }
}

fn is_image_type(kind: &str) -> bool {
    matches!(kind, "image/jpeg" | "image/png" | "image/webp" | "application/octet-stream")
}

fn refuse_beyond(announced: Option<usize>, bytes_max: usize) -> Result<(), IncomingError> {
    if announced.is_some_and(|bytes| bytes > bytes_max) { Err(IncomingError::TooLarge) } else { Ok(()) }
}

fn interrupted(_: PayloadError) -> IncomingError {
    IncomingError::Interrupted
}

fn refused_by_parser(error: MultipartError) -> IncomingError {
    match error {
        MultipartError::Payload(_) => IncomingError::Interrupted,
        _ => IncomingError::Malformed,
    }
}

async fn read_parts(
    mut parts: Multipart,
    announced: Option<usize>,
    options: &mut Options,
) -> Result<WipedBytes, IncomingError> {
    let mut image = None;
    let mut seen = 0;
    while let Some(part) = parts.next().await {
        let mut part = part.map_err(refused_by_parser)?;
        seen += 1;
        if seen > PARTS_MAX {
            return Err(IncomingError::Malformed);
        }
        match part.name().unwrap_or_default().to_owned().as_str() {
            "image" if image.is_some() => return Err(field("image", "is given twice")),
            "image" => {
                if part.content_type().is_some_and(|kind| !is_image_type(kind.essence_str())) {
                    return Err(IncomingError::UnsupportedType);
                }
                image = Some(read_image(part.map(|chunk| chunk.map_err(refused_by_parser)), announced).await?);
            }
            name => {
                let value = read_text(&mut part, name).await?;
                options.set(name, &value)?;
            }
        }
    }
    image.ok_or(IncomingError::Missing)
}

async fn read_image(
    chunks: impl Stream<Item = Result<Bytes, IncomingError>>,
    announced: Option<usize>,
) -> Result<WipedBytes, IncomingError> {
    let mut chunks = std::pin::pin!(chunks);
    let mut image = WipedBytes::with_capacity(announced.unwrap_or(UNANNOUNCED_BYTES).min(UploadedImage::BYTES_MAX));
    while let Some(chunk) = chunks.next().await {
        image.append(&chunk?)?;
    }
    if image.0.is_empty() { Err(IncomingError::Missing) } else { Ok(image) }
}

async fn read_text(part: &mut Field, name: &str) -> Result<String, IncomingError> {
    let mut text = Vec::new();
    while let Some(chunk) = part.next().await {
        text.extend_from_slice(&chunk.map_err(refused_by_parser)?);
        if text.len() > OPTION_BYTES_MAX {
            return Err(field(name, "is too long"));
        }
    }
    String::from_utf8(text).map_err(|_| field(name, "is not UTF-8"))
}

fn field(name: &str, reason: &str) -> IncomingError {
    // A name comes from the caller and goes back to him only; it is still cut, so that an answer stays small.
    IncomingError::Field { field: name.chars().take(40).collect(), reason: reason.to_owned() }
}

/// A growing buffer that leaves no copy behind: `Vec` would move its bytes on growth without wiping the old place.
struct WipedBytes(Zeroizing<Vec<u8>>);

impl WipedBytes {
    fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(bytes)))
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), IncomingError> {
        let needed = self.0.len() + chunk.len();
        if needed > UploadedImage::BYTES_MAX {
            return Err(IncomingError::TooLarge);
        }
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(self.0.capacity() * 2)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(chunk);
        Ok(())
    }
}

/// What stands beside the image, in the query string or in form fields; said once, in either place.
struct Options {
    known: &'static [&'static str],
    on_multiple_faces: Option<String>,
    false_match_rate: Option<String>,
}

impl Options {
    fn from_query(query: &str, known: &'static [&'static str]) -> Result<Self, IncomingError> {
        let mut options = Self { known, on_multiple_faces: None, false_match_rate: None };
        let pairs = Query::<Vec<(String, String)>>::from_query(query).map_err(|_| field("query", "cannot be read"))?;
        for (name, value) in pairs.iter() {
            options.set(name, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), IncomingError> {
        if !self.known.contains(&name) {
            return Err(field(name, "is not a field of this request"));
        }
        let option = match name {
            "on_multiple_faces" => &mut self.on_multiple_faces,
            _ => &mut self.false_match_rate,
        };
        match option.replace(value.to_owned()) {
            None => Ok(()),
            Some(_) => Err(field(name, "is given twice")),
        }
    }

    fn into_face(self, image: WipedBytes) -> Result<IncomingFace, IncomingError> {
        let on_multiple_faces = match self.on_multiple_faces.as_deref() {
            None | Some("refuse") => MultipleFaces::Refuse,
            Some("largest") => MultipleFaces::Largest,
            Some(_) => return Err(field("on_multiple_faces", "is one of refuse, largest")),
        };
        let false_match_rate = self.false_match_rate.map(|text| text.parse()).transpose();
        Ok(IncomingFace {
            image: UploadedImage::new(image.0).map_err(|_| IncomingError::TooLarge)?,
            on_multiple_faces,
            false_match_rate: false_match_rate.map_err(|_| field("false_match_rate", "is one of 1e-2, 1e-3, 1e-4"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_to_the_limit_and_not_beyond() {
        let mut buffer = WipedBytes::with_capacity(4);
        buffer.append(b"abcdef").unwrap();
        buffer.append(b"gh").unwrap();
        assert_eq!(buffer.0.as_slice(), b"abcdefgh");
        let rest = vec![0; UploadedImage::BYTES_MAX - 8];
        buffer.append(&rest).unwrap();
        assert_eq!(buffer.append(b"!"), Err(IncomingError::TooLarge));
    }

    #[test]
    fn options_are_said_once_and_by_name() {
        let read = |query| Options::from_query(query, VERIFICATION_OPTIONS);
        assert!(read("on_multiple_faces=largest&false_match_rate=1e-4").is_ok());
        assert!(read("on_multiple_faces=largest&on_multiple_faces=refuse").is_err());
        assert!(read("threshold=0").is_err());
        assert!(Options::from_query("false_match_rate=1e-4", ENROLMENT_OPTIONS).is_err());
    }

    #[test]
    fn only_stated_rates_are_accepted() {
        let face = |query: &str| {
            let mut image = WipedBytes::with_capacity(1);
            image.append(b"x").unwrap();
            Options::from_query(query, VERIFICATION_OPTIONS).unwrap().into_face(image)
        };
        assert!(face("false_match_rate=1e-3").is_ok());
        assert!(face("false_match_rate=0.001").is_err());
        assert!(face("on_multiple_faces=all").is_err());
    }
}
