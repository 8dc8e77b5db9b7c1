//! Damage is told from an unfinished write, and refused with the file and the place.

use super::*;

/// A closed log: vote, entries 0..10 in two segments, the fourth and the last one alone in their groups.
async fn closed() -> SimDisk {
    let disk = SimDisk::default();
    let mut log = open(&disk).await.expect("open");
    log.save_vote(&Vote::new(1, 1)).await.expect("vote");
    append(&log, (0..3).map(|index| entry(1, index, 300)).collect()).await;
    append(&log, vec![entry(1, 3, 50)]).await;
    append(&log, (4..9).map(|index| entry(1, index, 600)).collect()).await;
    append(&log, vec![entry(1, 9, 50)]).await;
    log.close().await.expect("close");
    disk
}

/// The records of a segment: where each begins, and what it is.
fn records(disk: &SimDisk, sequence: u64) -> Vec<(usize, record::Decoded)> {
    let bytes = disk.content(&segment_path(sequence));
    let salt = record::decode_segment_header(&bytes, sequence).expect("header");
    let mut at = record::RECORDS_AT as usize;
    let mut records = Vec::new();
    while let Some(decoded) = record::decode(&bytes[at..], &salt).expect("intact") {
        let begin = at;
        at += decoded.bytes;
        records.push((begin, decoded));
    }
    records
}

/// Makes the mark what it is while the last `records` records are being written.
async fn set_mark_back(disk: &SimDisk, records: u64) {
    let (mut file, mark) = mark::MarkFile::open(disk, Path::new(DIR)).await.expect("open").expect("a mark");
    let earlier = mark::Mark { last_record: mark.last_record - records, ..mark };
    file.replace(earlier).await.expect("write");
}

fn assert_names(error: &LogError, path: &Path, offset: usize) {
    let message = error.to_string();
    assert!(message.contains(&path.display().to_string()), "{message}");
    assert!(message.contains(&format!("offset {offset}")), "{message}");
    assert!(message.contains("join as a new one"), "{message}");
}

#[tokio::test]
async fn a_last_record_that_was_cut_while_it_was_written_is_dropped() {
    let whole = closed().await;
    let (begin, last) = records(&whole, 2).pop().expect("records");
    assert!(matches!(&last.content, record::Content::Entry(last) if last.log_id.index == 9));
    for kept in 0..last.bytes {
        let disk = whole.crash(|_| true);
        set_mark_back(&disk, 1).await;
        disk.edit(&segment_path(2), |bytes| bytes[begin + kept..].fill(0));
        let is_whole = disk.content(&segment_path(2)) == whole.content(&segment_path(2));
        let log = open(&disk).await.expect("an unfinished write is no damage");
        assert_eq!(contents(&log).await.entries.len(), if is_whole { 10 } else { 9 }, "{kept} bytes kept");
        append(&log, vec![entry(2, log.last().expect("entries").index + 1, 10)]).await;
        log.close().await.expect("close");
        let found = contents(&open(&disk).await.expect("open")).await.entries;
        assert_eq!(found.last().expect("entries").log_id.leader_id.term, 2);
    }
}

#[tokio::test]
async fn a_changed_byte_in_any_durable_record_is_refused() {
    let whole = closed().await;
    for sequence in [1, 2] {
        for (begin, decoded) in records(&whole, sequence) {
            for at in begin..begin + decoded.bytes {
                let disk = whole.crash(|_| true);
                disk.edit(&segment_path(sequence), |bytes| bytes[at] ^= 0x10);
                let error = open(&disk).await.expect_err("damage");
                assert!(matches!(error, LogError::Damaged { .. }), "{error}");
                assert_names(&error, &segment_path(sequence), begin);
            }
        }
    }
}

/// Without the mark's help, what follows proves that a record was durable.
#[tokio::test]
async fn a_changed_byte_before_the_last_group_is_refused_even_if_the_mark_is_old() {
    let whole = closed().await;
    let last = records(&whole, 2).len() - 1;
    for sequence in [1, 2] {
        for (number, (begin, decoded)) in records(&whole, sequence).into_iter().enumerate() {
            if (sequence, number) == (2, last) {
                continue;
            }
            for at in [0, 5, 12, decoded.bytes - 1] {
                let disk = whole.crash(|_| true);
                let (_, mark) = mark::MarkFile::open(&disk, Path::new(DIR)).await.expect("open").expect("mark");
                set_mark_back(&disk, mark.last_record).await;
                disk.edit(&segment_path(sequence), |bytes| bytes[begin + at] ^= 0x80);
                let error = open(&disk).await.expect_err("damage");
                assert_names(&error, &segment_path(sequence), begin);
            }
        }
    }
}

/// A vote that is taken for an unfinished write could be cast again.
#[tokio::test]
async fn a_changed_byte_in_a_vote_is_refused_even_right_after_it_was_saved() {
    let disk = SimDisk::default();
    let mut log = open(&disk).await.expect("open");
    log.save_vote(&Vote::new(5, 1)).await.expect("vote");
    let (begin, _) = records(&disk, 1)[0];
    for at in [begin, begin + 60] {
        let disk = disk.crash(|_| false);
        disk.edit(&segment_path(1), |bytes| bytes[at] ^= 1);
        assert_names(&open(&disk).await.expect_err("damage"), &segment_path(1), begin);
    }
}

#[tokio::test]
async fn a_log_that_was_cut_between_records_is_refused() {
    let whole = closed().await;
    for sequence in [1, 2] {
        for (begin, _) in records(&whole, sequence) {
            let disk = whole.crash(|_| true);
            disk.edit(&segment_path(sequence), |bytes| bytes[begin..].fill(0));
            for later in sequence + 1..=3 {
                disk.edit(&segment_path(later), |bytes| bytes[record::RECORDS_AT as usize..].fill(0));
            }
            let error = open(&disk).await.expect_err("cut");
            assert!(matches!(error, LogError::WentBack { .. }), "{error}");
        }
    }
}

/// The mark is durable before a segment is left, whatever the crash keeps.
#[tokio::test]
async fn a_log_that_was_cut_before_its_last_segment_is_refused_after_a_crash_too() {
    let disk = SimDisk::default();
    let log = open(&disk).await.expect("open");
    append(&log, (0..9).map(|index| entry(1, index, 600)).collect()).await;
    let disk = disk.crash(|_| false);
    let (begin, _) = records(&disk, 1).pop().expect("records");
    disk.edit(&segment_path(1), |bytes| bytes[begin..].fill(0));
    disk.edit(&segment_path(2), |bytes| bytes[record::RECORDS_AT as usize..].fill(0));
    assert!(matches!(open(&disk).await, Err(LogError::WentBack { .. })));
}

/// Either slot of the mark may be damaged, also when the one that is left is the older one.
#[tokio::test]
async fn a_damaged_slot_of_the_mark_is_no_reason_to_refuse_the_log() {
    let disk = SimDisk::default();
    let mut log = open(&disk).await.expect("open");
    append(&log, (0..20).map(|index| entry(1, index, 600)).collect()).await;
    log.purge(types::log_id(1, 15)).await.expect("purge");
    append(&log, vec![entry(1, 20, 10)]).await;
    let whole = contents(&log).await;
    drop(log);
    for slot in [0, 4096] {
        let disk = disk.crash(|_| false);
        disk.edit(&Path::new(DIR).join("mark"), |bytes| bytes[slot + 35] ^= 1);
        assert_eq!(contents(&open(&disk).await.expect("the other slot")).await, whole);
    }
}

#[tokio::test]
async fn values_that_look_like_records_prove_nothing() {
    let disk = SimDisk::default();
    let log = open(&disk).await.expect("open");
    // A record that claims that thousands were durable, but with another salt than its segment's.
    let mut forged = Vec::new();
    let state = record::Record::State(record::State::default());
    record::encode(&mut forged, &record::Salt::new(0), 5000, 4999, &state);
    let payload = openraft::EntryPayload::Normal(Batch::from_encoded(forged.repeat(20).into()));
    append(&log, vec![entry(1, 0, 10)]).await;
    append(&log, vec![Entry { log_id: types::log_id(1, 1), payload }]).await;
    log.close().await.expect("close");
    set_mark_back(&disk, 1).await;
    let (begin, _) = records(&disk, 1).pop().expect("records");
    disk.edit(&segment_path(1), |bytes| bytes[begin] ^= 1);
    let log = open(&disk).await.expect("an unfinished write");
    assert_eq!(contents(&log).await.entries.len(), 1);
}

#[tokio::test]
async fn what_is_no_segment_of_this_log_is_refused() {
    let whole = closed().await;
    let edited = async |edit: &dyn Fn(&mut Vec<u8>)| {
        let disk = whole.crash(|_| true);
        disk.edit(&segment_path(1), |bytes| edit(bytes));
        open(&disk).await.expect_err("refused").to_string()
    };
    let newer = |bytes: &mut Vec<u8>| {
        bytes[8] = 2;
        let crc = crc32fast::hash(&[&bytes[..12], &bytes[16..32]].concat());
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    };
    assert!(edited(&|bytes| bytes[0] = b'x').await.contains("does not begin as a log segment"));
    assert!(edited(&|bytes| bytes[20] = 9).await.contains("header does not match"));
    assert!(edited(&|bytes| bytes.truncate(100)).await.contains("does not begin as a log segment"));
    assert!(edited(&newer).await.contains("written by a newer mökv, in format version 2"));
    let second = whole.content(&segment_path(2));
    assert!(edited(&|bytes| *bytes = second.clone()).await.contains("it is segment 2 by its header, not 1"));
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let whole = closed().await;
    for path in [segment_path(1), segment_path(2), Path::new(DIR).join("mark")] {
        let disk = whole.crash(|_| true);
        disk.remove(&path).await.expect("remove");
        let error = open(&disk).await.expect_err("missing");
        assert!(matches!(&error, LogError::Missing { path: missing } if *missing == path), "{error}");
    }
    let disk = whole.crash(|_| true);
    for sequence in [2, 3] {
        disk.remove(&segment_path(sequence)).await.expect("remove");
    }
    assert!(matches!(open(&disk).await, Err(LogError::WentBack { .. })));
}

#[tokio::test]
async fn damage_that_is_met_while_reading_is_an_error() {
    let disk = closed().await;
    let log = open_with(&disk, LogOptions { cache_bytes_max: 0, ..options() }).await.expect("open");
    let (begin, _) = records(&disk, 1)[2];
    disk.edit(&segment_path(1), |bytes| bytes[begin + 50] ^= 1);
    let mut reader = log.clone().get_log_reader().await;
    let error = reader.try_get_log_entries(0..5).await.expect_err("damage").to_string();
    assert!(error.contains(&format!("{} at offset {begin}", segment_path(1).display())), "{error}");
    assert_eq!(reader.try_get_log_entries(4..6).await.expect("intact").len(), 2);
}
