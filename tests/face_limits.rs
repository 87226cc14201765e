//! What a hostile file may cost before it is refused: 100 ms of CPU and 64 MB of memory. A test program of its own, since
//! memory is counted for the whole process. Linux only, as it reads /proc.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot read its data has failed")]

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageFormat};
use velum::{
    domain::face::{MultipleFaces, UploadedImage},
    face::{FacePipeline, Runtime},
};
use zeroize::Zeroizing;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pipeline() -> FacePipeline {
    let library = std::env::var_os("VELUM_ONNXRUNTIME")
        .map_or_else(|| root().join("runtime/libonnxruntime.so.1.31.1"), PathBuf::from);
    FacePipeline::load(&Runtime::open(&library).unwrap(), &root().join("models"), None, 1).unwrap()
}

/// Nanoseconds that this thread has run.
fn cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// A line of /proc/self/status, in bytes.
fn memory(line: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|candidate| candidate.starts_with(line)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind, data].concat();
    [&(data.len() as u32).to_be_bytes()[..], &body, &crc(&body).to_be_bytes()].concat()
}

fn png(width: u32, height: u32, extra: &[u8], data: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let signature = b"\x89PNG\r\n\x1a\n";
    [signature, &png_chunk(b"IHDR", &header)[..], extra, &png_chunk(b"IDAT", data), &png_chunk(b"IEND", &[])].concat()
}

/// A zlib stream that unfolds into `side * side` zero bytes and a little more.
fn zeros(side: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::new_luma8(side, side).write_to(&mut bytes, ImageFormat::Png).unwrap();
    let bytes = bytes.into_inner();
    let (mut rest, mut stream) = (&bytes[8..], Vec::new());
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        if &rest[4..8] == b"IDAT" {
            stream.extend_from_slice(&rest[8..8 + length]);
        }
        rest = &rest[12 + length..];
    }
    stream
}

/// A JPEG whose frame claims another size than it has.
fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = fs::read(root().join("samples/grace_hopper.jpg")).unwrap();
    let frame = bytes.windows(3).position(|window| window == [0xFF, 0xC0, 0x00]).unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

fn webp_lossless(width: u32, height: u32) -> Vec<u8> {
    let sizes = ((width - 1) | ((height - 1) << 14)).to_le_bytes();
    let chunk = [&b"VP8L\x0e\0\0\0\x2f"[..], &sizes, &[0; 9]].concat();
    let inside = [b"WEBP", &chunk[..]].concat();
    [b"RIFF", &(inside.len() as u32).to_le_bytes()[..], &inside].concat()
}

#[test]
fn a_hostile_file_is_refused_within_100_ms_and_64_mb() {
    let pipeline = pipeline();
    let bomb = zeros(7000);
    let profile = [b"p\0\0", &bomb[..]].concat();
    let padding = png_chunk(b"tEXt", &vec![b'a'; 9_000_000]);
    let long = fs::read(root().join("samples/grace_hopper.jpg")).unwrap();
    let stuffed = [&long[..2], &vec![0xFF; 9_900_000][..]].concat();
    // The profile is left folded: it is not needed, and the picture is an honest one of 8 x 8 pixels.
    let files = [
        ("PNG of 2^31 x 2^31", png(1 << 31, 1 << 31, &[], &bomb), "image_too_many_pixels"),
        ("PNG of 50,000 x 50,000", png(50_000, 50_000, &[], &bomb), "image_too_many_pixels"),
        ("PNG of 49 megapixels in 50 kB", png(7000, 7000, &[], &bomb), "image_undecodable"),
        ("the same, padded with text", png(7000, 7000, &padding, &bomb), "image_undecodable"),
        ("PNG with a bomb for a colour profile", png(8, 8, &png_chunk(b"iCCP", &profile), &zeros(30)), "no_face"),
        ("JPEG of 65,535 x 65,535", jpeg(65_535, 65_535), "image_too_many_pixels"),
        ("JPEG of 49 megapixels in 60 kB", jpeg(7000, 7000), "image_undecodable"),
        ("JPEG of fill bytes", stuffed, "image_undecodable"),
        ("WebP of 16,384 x 16,384", webp_lossless(16_384, 16_384), "image_too_many_pixels"),
        ("WebP of 49 megapixels in 30 bytes", webp_lossless(7000, 7000), "image_undecodable"),
    ];
    for (name, bytes, code) in files {
        let upload = UploadedImage::new(Zeroizing::new(bytes)).unwrap();
        fs::write("/proc/self/clear_refs", "5").unwrap(); // the peak starts at what is held now
        let (memory_before, cpu_before) = (memory("VmHWM"), cpu_ns());
        let refused = pipeline.embed(upload, MultipleFaces::Refuse).err().map(|error| error.code());
        let (cpu_ms, extra) = ((cpu_ns() - cpu_before) / 1_000_000, memory("VmHWM") - memory_before);
        println!("{name:40} {} in {cpu_ms} ms, {} kB more", refused.unwrap_or("accepted"), extra / 1024);
        assert_eq!(refused, Some(code), "{name}");
        assert!(cpu_ms < 100, "{name}: {cpu_ms} ms");
        assert!(extra < 64_000_000, "{name}: {extra} bytes");
    }
}
