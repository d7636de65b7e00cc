//! Names audio formats that are not decoded, by magic, container codec or header field.

use symphonia::core::codecs::audio::{AudioCodecId, AudioCodecParameters, well_known as codec};

use super::{aac, mp4};
use crate::input::media::format::is_image_brand;

/// The supported formats, for messages.
pub(super) const KNOWN: &str = "WAV (RF64, Wave64), AIFF, CAF, FLAC, MP3, Ogg, WebM, Matroska and MP4 with AAC, ALAC, FLAC, MP3, \
     Opus, Vorbis or PCM";

/// The magic of supported formats.
const READ: [(&[u8], &str); 10] = [
    (b"RIFF", "wave"),
    (b"RF64", "wave"),
    (b"BW64", "wave"),
    (b"riff", "wave"),
    (b"FORM", "aiff"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"ID3", "mp3"),
    (b"caff", "caf"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
];

/// The magic of unsupported formats: offset, bytes and name.
const NOT_READ: [(usize, &[u8], &str); 29] = [
    (0, b"RIFX", "WAV with big-endian samples (RIFX)"),
    (8, b"RMID", "MIDI"),
    (8, b"AVI ", "AVI"),
    (8, b"8SVX", "IFF 8SVX"),
    (0, b"MThd", "MIDI"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA (ASF)"),
    (0, b"#!AMR-WB", "AMR-WB"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"\x7f\xfe\x80\x01", "DTS"),
    (0, b"DSD ", "DSD (DSF)"),
    (0, b"FRM8", "DSD (DSDIFF)"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "TTA (True Audio)"),
    (0, b"TTA2", "TTA (True Audio)"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"tBaK", "TAK"),
    (0, b"OFR ", "OptimFROG"),
    (0, b"ajkg", "Shorten"),
    (0, b".snd", "AU (Sun audio)"),
    (0, b"NIST_1A", "NIST SPHERE"),
    (0, b"Creative Voice File", "Creative Voice (VOC)"),
    (0, b".RMF", "RealMedia"),
    (0, b".ra\xfd", "RealAudio"),
    (0, b"FLV\x01", "Flash video (FLV)"),
    (0, b"nut/multimedia container", "NUT"),
    (0, b"\x00\x00\x01\xba", "MPEG program stream"),
];

/// The magic of the first Ogg packet of unsupported codecs.
const OGG_NOT_READ: [(&[u8], &str); 5] = [
    (b"Speex   ", "Speex in Ogg"),
    (b"CELT    ", "CELT in Ogg"),
    (b"PCM     ", "PCM in Ogg (OggPCM)"),
    (b"\x80theora", "Theora video in Ogg, without audio"),
    (b"fishead\0", "Ogg with a skeleton, without audio"),
];

/// The packet size of an MPEG transport stream.
const TRANSPORT_PACKET: usize = 188;

/// Returns whether bytes begin like audio: with the magic of a supported or known format, with an MPEG-4 box
/// (ISO/IEC 14496-12), or with a frame header of MPEG audio (ISO/IEC 11172-3: eleven set bits, layer II or
/// III) or AAC (ISO/IEC 14496-3, ADTS).
pub(in super::super) fn is_known(bytes: &[u8]) -> bool {
    let is_frame = matches!(bytes, [0xff, second, ..]
        if matches!(second & 0xe6, 0xe2 | 0xe4) || second & 0xf6 == 0xf0);
    let is_box = bytes.get(4..8) == Some(b"ftyp") && !bytes.get(8..12).is_some_and(is_image_brand);
    read_format(bytes).is_some() || is_frame || is_box || unread_format(bytes).is_some()
}

/// Returns the supported format with this magic.
pub(super) fn read_format(bytes: &[u8]) -> Option<&'static str> {
    READ.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, name)| *name)
}

/// Returns the unsupported format with this magic.
pub(super) fn unread_format(bytes: &[u8]) -> Option<&'static str> {
    let begins = |at: usize, magic: &[u8]| bytes.get(at..).is_some_and(|b| b.starts_with(magic));
    // Text may begin with the same letters; headers have small numbers next to them.
    let has_numbers = bytes.iter().take(16).any(|byte| *byte < 9);
    let is_word = |magic: &[u8]| magic.len() < 5 && magic.iter().all(|c| matches!(c, b' '..=b'~'));
    let by_magic = NOT_READ.iter().find(|(at, magic, _)| match *at {
        0 => begins(0, magic) && (has_numbers || !is_word(magic)),
        at => begins(at, magic) && (begins(0, b"RIFF") || begins(0, b"FORM")),
    });
    let is_transport = bytes.len() > 2 * TRANSPORT_PACKET
        && (0..3).all(|i| bytes.get(i * TRANSPORT_PACKET).is_none_or(|byte| *byte == 0x47));
    by_magic
        .map(|(_, _, name)| *name)
        .or_else(|| is_transport.then_some("MPEG transport stream"))
        .or_else(|| ogg_codec(bytes))
}

/// Returns the unsupported codec of an Ogg stream. The page header has 27 bytes plus one per segment (RFC
/// 3533).
fn ogg_codec(bytes: &[u8]) -> Option<&'static str> {
    let n_segments = usize::from(*bytes.get(26)?);
    let packet = bytes.starts_with(b"OggS").then(|| bytes.get(27 + n_segments..))??;
    OGG_NOT_READ.iter().find(|(magic, _)| packet.starts_with(magic)).map(|(_, name)| *name)
}

/// Returns the codec of AIFF-C: four letters in the chunk `COMM`, after 18 bytes.
pub(super) fn aiff_codec(bytes: &[u8]) -> Option<String> {
    let chunk =
        memchr::memmem::find(bytes, b"COMM").filter(|_| bytes.get(8..12) == Some(b"AIFC"))?;
    let code = bytes.get(chunk + 26..chunk + 30)?;
    Some(format!("AIFF-C with the codec `{}`", code.escape_ascii()))
}

/// Returns the name of an unsupported WAV encoding (`mmreg.h` of the Windows SDK).
pub(super) fn wave_codec(tag: u16) -> String {
    let name = match tag {
        0x02 | 0x11 => "ADPCM",
        0x10 | 0x14 | 0x15 | 0x16 | 0x17 | 0x20 | 0x36 | 0x40 | 0x45 | 0x61 | 0x62 | 0x64
        | 0x65 | 0x69 | 0x200 => "ADPCM",
        0x22 => "TrueSpeech",
        0x31 | 0x32 => "GSM 6.10",
        0x42 => "G.723.1",
        0x83 => "G.729",
        0x92 | 0x2000 => "AC-3",
        0xff | 0x1600 | 0x1601 | 0x1602 | 0x1610 | 0xa106 | 0x706d => "AAC",
        0x160..=0x163 => "WMA",
        0x270 => "ATRAC3",
        0x2001 => "DTS",
        0x566f | 0x674f..=0x6751 | 0x676f..=0x6771 => "Vorbis",
        0x704f => "Opus",
        0xa109 => "Speex",
        0xf1ac => "FLAC",
        0x28f => "G.722",
        _ => return format!("encoding 0x{tag:04x}"),
    };
    name.to_owned()
}

/// Returns the codec of a track that cannot be decoded.
pub(super) fn codec_name(parameters: &AudioCodecParameters) -> String {
    let n_channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
    let name = match parameters.codec {
        codec::CODEC_ID_AAC => return aac::name(parameters),
        codec::CODEC_ID_OPUS => return format!("Opus with {n_channels} channels"),
        id => known_codec(id),
    };
    name.map_or_else(|| format!("the codec {}", parameters.codec), str::to_owned)
}

fn known_codec(id: AudioCodecId) -> Option<&'static str> {
    Some(match id {
        codec::CODEC_ID_AC3 => "AC-3",
        codec::CODEC_ID_EAC3 => "E-AC-3",
        codec::CODEC_ID_AC4 => "AC-4",
        codec::CODEC_ID_DCA => "DTS",
        codec::CODEC_ID_TRUEHD => "TrueHD",
        codec::CODEC_ID_ALAC => "ALAC",
        codec::CODEC_ID_FLAC => "FLAC",
        codec::CODEC_ID_VORBIS => "Vorbis",
        codec::CODEC_ID_SPEEX => "Speex",
        codec::CODEC_ID_MP1 | codec::CODEC_ID_MP2 | codec::CODEC_ID_MP3 => "MPEG audio",
        codec::CODEC_ID_ADPCM_G722 => "G.722",
        codec::CODEC_ID_ADPCM_G726 | codec::CODEC_ID_ADPCM_G726LE => "G.726",
        codec::CODEC_ID_ADPCM_IMA_QT => "ADPCM (IMA, QuickTime)",
        codec::CODEC_ID_ADPCM_IMA_WAV => "ADPCM (IMA)",
        codec::CODEC_ID_ADPCM_MS => "ADPCM (Microsoft)",
        codec::CODEC_ID_WAVPACK => "WavPack",
        codec::CODEC_ID_TTA => "TTA (True Audio)",
        codec::CODEC_ID_WMA => "WMA",
        codec::CODEC_ID_MUSEPACK => "Musepack",
        codec::CODEC_ID_MONKEYS_AUDIO => "Monkey's Audio",
        _ => return None,
    })
}

/// Returns the codec of MPEG-4 audio that the demuxer does not support.
pub(super) fn boxed_codec(bytes: &[u8]) -> Option<String> {
    let code = mp4::audio_sample_entry(bytes)?;
    let name = match &code {
        b"ac-3" => "AC-3",
        b"ec-3" => "E-AC-3",
        b"ac-4" => "AC-4",
        b"samr" => "AMR",
        b"sawb" => "AMR-WB",
        b"alaw" => "A-law",
        b"ulaw" => "mu-law",
        b"ima4" => "ADPCM (IMA, QuickTime)",
        b"ms\0\x02" | b"ms\0\x11" => "ADPCM",
        b"agsm" => "GSM 6.10",
        b"QDM2" | b"QDMC" => "QDesign Music",
        b"MAC3" | b"MAC6" => "MACE",
        b"dtsc" | b"dtsh" | b"dtsl" | b"dtse" | b"dtsx" => "DTS",
        b"mlpa" => "TrueHD",
        b"mha1" | b"mhm1" => "MPEG-H 3D Audio",
        b"iamf" => "IAMF",
        b"enca" => "encrypted audio",
        code => return Some(format!("the codec `{}`", code.escape_ascii())),
    };
    Some(name.to_owned())
}
