//! What a hostile file may cost before it is refused: 100 ms of CPU and 64 MB of memory; and what a picture may leave behind.
//! A test program of its own, since memory is counted for the whole process. Linux only, as it reads /proc.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot read its data has failed")]

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use image::{DynamicImage, ExtendedColorType, ImageFormat, RgbImage, codecs::jpeg::JpegEncoder, imageops::FilterType};
use velum_domain::face::{MultipleFaces, UploadedImage};
use velum_face::{FacePipeline, Runtime};
use zeroize::Zeroizing;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn pipeline() -> FacePipeline {
    let library = std::env::var_os("VELUM_ONNXRUNTIME")
        .map_or_else(|| root().join("runtime/libonnxruntime.so.1.31.1"), PathBuf::from);
    FacePipeline::load(&Runtime::open(&library).unwrap(), &root().join("models"), None, 1).unwrap()
}

/// One test at a time, or each would count the other's memory.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
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

/// `depth` and `colour` as in IHDR: 8 and 2 are RGB.
fn png_of(width: u32, height: u32, [depth, colour]: [u8; 2], extra: &[u8], data: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    let signature = b"\x89PNG\r\n\x1a\n";
    [signature, &png_chunk(b"IHDR", &header)[..], extra, &png_chunk(b"IDAT", data), &png_chunk(b"IEND", &[])].concat()
}

fn png(width: u32, height: u32, extra: &[u8], data: &[u8]) -> Vec<u8> {
    png_of(width, height, [8, 2], extra, data)
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

/// A whole and honest JPEG of one grey.
fn flat_jpeg(side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let grey = vec![128; (side * side) as usize];
    JpegEncoder::new(&mut bytes).encode(&grey, side, side, ExtendedColorType::L8).unwrap();
    bytes
}

/// As many faces as the detector can see at once, row by row.
fn crowd() -> Vec<u8> {
    const FACE_SIDE: u32 = 44;
    let portrait = image::open(root().join("samples/eileen_collins.png")).unwrap();
    let face =
        portrait.crop_imm(120, 20, 210, 210).resize_exact(FACE_SIDE, FACE_SIDE, FilterType::Triangle).into_rgb8();
    let crowd = RgbImage::from_fn(424, 424, |x, y| *face.get_pixel(x % FACE_SIDE, y % FACE_SIDE));
    let mut bytes = Cursor::new(Vec::new());
    crowd.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn upload(bytes: Vec<u8>) -> UploadedImage {
    UploadedImage::new(Zeroizing::new(bytes)).unwrap()
}

fn webp_lossless(width: u32, height: u32) -> Vec<u8> {
    let sizes = ((width - 1) | ((height - 1) << 14)).to_le_bytes();
    let chunk = [&b"VP8L\x0e\0\0\0\x2f"[..], &sizes, &[0; 9]].concat();
    let inside = [b"WEBP", &chunk[..]].concat();
    [b"RIFF", &(inside.len() as u32).to_le_bytes()[..], &inside].concat()
}

#[test]
fn a_hostile_file_is_refused_within_100_ms_and_64_mb() {
    let _alone = alone();
    let pipeline = pipeline();
    let bomb = zeros(7000);
    // 49 million single bits, and behind their end as much noise as their packed bytes would need to be plausible.
    let noise = (0..320_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8);
    let bits: Vec<u8> = zeros(2500).into_iter().chain(noise).collect();
    let palette = png_chunk(b"PLTE", &[0; 768]);
    let translucent = [&palette[..], &png_chunk(b"tRNS", &[9; 256])].concat();
    let flat = flat_jpeg(7000);
    println!("a flat JPEG of 49 megapixels has {} bytes", flat.len());
    assert!(flat.len() < 1_000_000);
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
        ("PNG of 49 megapixels, 1-bit grey", png_of(7000, 7000, [1, 0], &[], &bits), "image_undecodable"),
        ("PNG of 49 megapixels, 1-bit palette", png_of(7000, 7000, [1, 3], &palette, &bits), "image_undecodable"),
        ("the same with transparency", png_of(7000, 7000, [1, 3], &translucent, &bits), "image_undecodable"),
        ("PNG of 49 megapixels, 8-bit palette", png_of(7000, 7000, [8, 3], &palette, &bomb), "image_undecodable"),
        ("JPEG of 49 megapixels of one grey", flat, "image_undecodable"),
        ("JPEG of 65,535 x 65,535", jpeg(65_535, 65_535), "image_too_many_pixels"),
        ("JPEG of 49 megapixels in 60 kB", jpeg(7000, 7000), "image_undecodable"),
        ("JPEG of fill bytes", stuffed, "image_undecodable"),
        ("WebP of 16,384 x 16,384", webp_lossless(16_384, 16_384), "image_too_many_pixels"),
        ("WebP of 49 megapixels in 30 bytes", webp_lossless(7000, 7000), "image_undecodable"),
    ];
    for (name, bytes, code) in files {
        let upload = upload(bytes);
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

/// A leak of a few kilobytes a picture is a gigabyte after some days.
#[test]
fn many_pictures_leave_no_more_memory_behind_than_a_few() {
    const PICTURES: u64 = 800;
    const KEPT_BYTES_MAX: u64 = 1_500_000;
    let _alone = alone();
    let pipeline = pipeline();
    let portrait = fs::read(root().join("samples/grace_hopper.jpg")).unwrap();
    let look = || drop(pipeline.examine(upload(portrait.clone()), MultipleFaces::Largest).unwrap());
    (0..100).for_each(|_| look());
    let before = memory("VmRSS");
    (0..PICTURES).for_each(|_| look());
    let kept = memory("VmRSS").saturating_sub(before);
    println!("{PICTURES} pictures leave {} kB behind", kept / 1024);
    assert!(kept < KEPT_BYTES_MAX, "{kept} bytes");
}

/// What inference keeps, it keeps for good and in each lane: a crowd must not leave more behind than a portrait does.
#[test]
fn a_crowd_leaves_no_more_memory_behind_than_a_portrait() {
    const KEPT_BYTES_MAX: u64 = 24_000_000;
    let _alone = alone();
    let pipeline = pipeline();
    let portrait = fs::read(root().join("samples/grace_hopper.jpg")).unwrap();
    let look = |bytes: &[u8]| pipeline.examine(upload(bytes.to_vec()), MultipleFaces::Largest).err();
    for _ in 0..3 {
        assert!(look(&portrait).is_none());
    }
    let (crowd, before) = (crowd(), memory("VmRSS"));
    for _ in 0..3 {
        // Faces there are, but too small ones.
        assert_eq!(look(&crowd).map(|error| error.code()), Some("face_too_small"));
    }
    let kept = memory("VmRSS").saturating_sub(before);
    println!("a crowd leaves {} kB behind", kept / 1024);
    assert!(kept < KEPT_BYTES_MAX, "{kept} bytes");
}
