//! Files that are not what the cursor says, and logs that are ahead of the journal.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use std::net::Ipv4Addr;

#[test]
fn strange_lines_are_said_and_stay() {
    let scene = Scene::new();
    let (a, c) = (lines(&events(&[0], &[1])), lines(&events(&[2], &[3])));
    fs::write(&scene.log, format!("{a}by hand\n{c}half")).unwrap();
    scene.point(&scene.log, 0, &[0]);
    let (completed, said) = scene.recover(&[3]);
    let b = lines(&events(&[1], &[2]));
    assert_eq!(scene.text(), format!("{a}by hand\n{c}half\n{b}"));
    assert_eq!((completed.appended, completed.cut, completed.strangers), (1, 0, 1));
    assert!(said[1].contains("has 1 line at its end that this server did not write"), "{said:?}");
}

/// The log, which had two events, is gone; a file with this content has its name.
fn in_place_of_the_log(content: &str) -> Scene {
    let scene = Scene::new();
    let gone = scene.file("gone");
    fs::write(&gone, lines(&events(&[0], &[2]))).unwrap();
    fs::write(&scene.log, content).unwrap();
    scene.point(&gone, 10, &[2]);
    fs::remove_file(&gone).unwrap();
    scene
}

#[test]
fn file_that_is_gone_is_begun_anew() {
    for content in ["", "other\n"] {
        let scene = in_place_of_the_log(content);
        let (completed, said) = scene.recover(&[5]);
        assert_eq!(scene.text(), content.to_owned() + &lines(&events(&[2], &[5])));
        assert_eq!((completed.appended, completed.strangers), (3, 0));
        assert!(said[0].contains("is not in its directory any more"), "{said:?}");
    }
}

/// A file that has the cursor's inode, as the log was removed, and lies in its directory.
#[test]
fn a_reused_inode_is_another_file() {
    let (all, strange) = (lines(&events(&[0], &[6])), "somebody else's words\n2");
    for (born, tail) in [(true, true), (true, false), (false, true)] {
        let scene = Scene::new();
        let other = scene.file("other.txt");
        let written = strange.repeat(20);
        fs::write(&other, &written).unwrap();
        let mut file = inode_of(&File::open(&other).unwrap()).unwrap().unwrap();
        file.born = if born { file.born - 1_000_000 } else { 0 };
        let tail = if tail { Tail::of(all.as_bytes()) } else { Tail::default() };
        let position = Some(LogPosition { file, offset: 300, synced: false, tail });
        let cursor = Cursor { events: vec![2], position };
        CursorFile::create(&RealDisk, &scene.cursor, &cursor).unwrap();
        let (completed, said) = scene.recover(&[6]);
        assert_eq!(fs::read_to_string(&other).unwrap(), written);
        assert!(said[0].contains("is not in its directory any more"), "{said:?}");
        assert_eq!((completed.appended, completed.cut), (4, 0));
        assert_eq!(scene.text(), lines(&events(&[2], &[6])));
    }
}

/// What stands under the log's name and is not ours keeps its end.
#[test]
fn a_strangers_file_in_the_logs_place_is_not_cut() {
    let own = lines(&events(&[4], &[5]));
    for (content, cut) in [("2", 0), ("2019-03-18 10:06:2", 0), (&own[..40], 40)] {
        let scene = in_place_of_the_log(content);
        let (completed, _) = scene.recover(&[5]);
        let kept = if cut == 0 { format!("{content}\n") } else { String::new() };
        assert_eq!(scene.text(), kept + &lines(&events(&[2], &[5])));
        assert_eq!(completed.cut, cut);
    }
}

#[test]
fn a_log_with_another_content_is_no_place_to_compare_from() {
    let all = lines(&events(&[0], &[6]));
    let line = all.len() / 6;
    // Emptied and written again, longer than before; the cursor was behind line 2.
    for (synced, appended) in [(true, 3), (false, 4)] {
        let scene = Scene::new();
        fs::write(&scene.log, &all[..2 * line]).unwrap();
        scene.point(&scene.log, 2 * line as u64, &[2]);
        let cursor = Cursor::read(&RealDisk, &scene.cursor).unwrap();
        let position = cursor.position.map(|position| LogPosition { synced, ..position });
        CursorFile::create(&RealDisk, &scene.cursor, &Cursor { position, ..cursor }).unwrap();
        fs::write(&scene.log, [&all[..line], &all[2 * line..3 * line], "other\n"].concat())
            .unwrap();
        let (completed, said) = scene.recover(&[6]);
        assert!(said[0].contains("does not have the octets before"), "{said:?}");
        assert_eq!(completed.appended, appended);
    }
}

/// The cursor could not be written, and the log was renamed twice meanwhile.
#[test]
fn a_file_between_is_compared_too() {
    let all = lines(&events(&[0], &[6]));
    let line = all.len() / 6;
    let scene = Scene::new();
    let (first, second) = (scene.file("events.log.2"), scene.file("events.log.1"));
    fs::write(&first, &all[..3 * line]).unwrap();
    fs::write(&second, &all[3 * line..4 * line]).unwrap();
    fs::write(&scene.log, &all[4 * line..5 * line]).unwrap();
    scene.point(&first, 2 * line as u64, &[2]);
    let (completed, _) = scene.recover(&[6]);
    assert_eq!((completed.appended, completed.strangers), (1, 0));
    assert_once(&whole(&[&first, &second, &scene.log]), &[6]);
}

/// The cursor is damaged, or could not be read, and the log was renamed just now: else the lines of
/// the file before would be written once more.
#[test]
fn without_a_cursor_files_before_are_compared_too() {
    let all = lines(&events(&[0], &[6]));
    let line = all.len() / 6;
    for (is_gone, cuts) in [(false, [2, 4]), (false, [2, 6]), (false, [3, 3]), (true, [3, 5])] {
        let scene = Scene::new();
        let (first, second) = (scene.file("events.log.2"), scene.file("events.log.1"));
        let cuts = cuts.map(|cut| cut * line);
        fs::write(&first, &all[..cuts[0]]).unwrap();
        fs::write(&second, &all[cuts[0]..cuts[1]]).unwrap();
        fs::write(&scene.log, &all[cuts[1]..]).unwrap();
        let written = scene.text();
        if is_gone {
            let gone = scene.file("gone");
            fs::write(&gone, &all).unwrap();
            scene.point(&gone, 10, &[1]);
            fs::remove_file(&gone).unwrap();
        }
        let (completed, _) = scene.recover(&[6]);
        assert_eq!((completed.appended, scene.text()), (0, written), "{is_gone} {cuts:?}");
    }
}

/// The log was renamed twice, as the cursor could not be written, and then the power cut took
/// records. A copy of the log that somebody made beside it says nothing of that; also where the
/// clock was set back, so that what was written last is earlier.
#[test]
fn lines_of_a_file_between_are_taken_back_and_those_of_a_copy_are_not() {
    let old = lines(&events(&[0], &[6]));
    let later = "2019-04-01 10:06:28.000001 Created 192.0.2.9:7 [2001:db8::9]:4000\n";
    let earlier = later.replace("2019-04", "2009-04");
    let line = |number| old.split_inclusive('\n').nth(number).unwrap().to_owned();
    let copies = [old.clone(), line(3), line(5), format!("by hand\n{old}")];
    let cases = [(later, 1, false), (&earlier, 1, false), (&earlier, 0, true)];
    let copied = copies.iter().map(|copy| (&**copy, 0, false));
    for (content, ahead, is_compressed) in cases.into_iter().chain(copied) {
        let scene = Scene::new();
        let first = scene.file("events.log.2");
        fs::write(&first, &old).unwrap();
        scene.point(&first, old.len() as u64, &[6]);
        fs::write(scene.file("events.log.1"), content).unwrap();
        if is_compressed {
            // It may be a copy of that.
            fs::write(scene.file("events.log.9.gz"), "").unwrap();
        }
        fs::write(&scene.log, "").unwrap();
        // In this order, whatever happens to the clock.
        let begin = fs::metadata(&first).unwrap().modified().unwrap();
        for (second, path) in [&first, &scene.file("events.log.1"), &scene.log].iter().enumerate() {
            let at = begin + std::time::Duration::from_secs(second as u64);
            fs::File::open(path).unwrap().set_modified(at).unwrap();
        }
        let (completed, _) = scene.complete(vec![vec![]]);
        assert_eq!((completed.ahead, completed.taken_back), (ahead, ahead), "{content}");
    }
}

/// The state was restored from a copy: its lines stand far from the end, and later ones behind.
#[test]
fn a_log_that_is_ahead_gets_no_line_twice() {
    let old = lines(&events(&[0], &[6]));
    let later: String = (0..5_000)
        .map(|number| {
            format!("2019-04-01 10:06:28.{number:06} Created 192.0.2.9:{number} [2001:db8::9]:1\n")
        })
        .collect();
    // The copy's cursor names another file, or is missing.
    let scene = Scene::new();
    fs::write(&scene.log, old.clone() + &later).unwrap();
    let (completed, _) = scene.recover(&[6]);
    assert_eq!((completed.appended, scene.text()), (0, old.clone() + &later));
    // The cursor is the copy's, and the log has been written on.
    scene.point(&scene.log, old.len() as u64, &[6]);
    let (completed, said) = scene.complete(vec![vec![]]);
    assert_eq!((completed.ahead, completed.taken_back, completed.strangers), (5_000, 5_000, 0));
    assert!(said[0].contains("ahead of the state by 5000 lines"), "{said:?}");
    let text = scene.text();
    assert!(text.starts_with(&(old + &later)));
    assert_eq!(text.matches(" Deleted 192.0.2.9:17 [2001:db8::9]:1\n").count(), 1);
    assert_eq!(scene.complete(vec![vec![]]), (Completed::default(), vec![]));
}

/// Half a line of what the journal lost could be read as another whole one.
#[test]
fn half_a_line_that_is_ahead_is_cut() {
    let old = lines(&events(&[0], &[6]));
    let whole = "2019-04-01 10:06:28.000001 Created 192.0.2.9:7 [2001:db8::9]:4000";
    for length in 0..=whole.len() {
        let scene = Scene::new();
        fs::write(&scene.log, format!("{old}{}", &whole[..length])).unwrap();
        scene.point(&scene.log, old.len() as u64, &[6]);
        let (completed, _) = scene.complete(vec![vec![]]);
        let is_known = length > "2019-04-01 10:06:28.000001 Created".len();
        let left = if is_known || length == 0 { "" } else { &format!("{}\n", &whole[..length]) };
        assert_eq!(scene.text(), format!("{old}{left}"));
        assert_eq!(completed.cut, if is_known { length as u64 } else { 0 });
        assert_eq!(scene.complete(vec![vec![]]), (Completed::default(), vec![]));
    }
}

/// The power went when the log and its cursor were on the disk, and the journal was not yet: what
/// the tables do not have is taken back, shard by shard.
#[test]
fn what_the_cursor_counts_and_the_journal_lost_is_taken_back() {
    let at = |micros: u64, what: &str| format!("2019-03-18 10:06:28.{micros:06} {what}\n");
    let text = [
        at(1, "Created 192.0.2.1:1 [2001:db8::1]:1"),
        at(2, "Created 192.0.2.2:1 [2001:db8::1]:1"),
        at(3, "Created 192.0.2.1:2 [2001:db8::2]:1"),
        at(4, "Created 192.0.2.2:2 [2001:db8::2]:1"),
        at(5, "Deleted 192.0.2.1:1 [2001:db8::1]:1"),
        at(6, "Created 192.0.2.1:1 [2001:db8::3]:1"),
    ]
    .concat();
    let scene = Scene::new();
    let complete = |counted: &[u64], next_events: &[u64]| {
        if !counted.is_empty() {
            scene.point(&scene.log, fs::metadata(&scene.log).unwrap().len(), counted);
        }
        let shard_of = |nat64: Ipv4Addr, _| usize::from(nat64.octets()[3]) - 1;
        let journal = Some(JournalEnds { next_events, shard_of: &shard_of });
        let (destination, format) = (scene.destination(), LogFormat::Plain);
        let log = LogToComplete {
            destination,
            format,
            cursor: &scene.cursor,
            now: clock::wall(),
            journal,
        };
        let mut unlogged = vec![vec![], vec![]];
        let completed = complete_saying(&RealDisk, log, &mut unlogged, |_| {}).unwrap().1;
        assert_eq!(Cursor::read(&RealDisk, &scene.cursor).unwrap().events, next_events);
        completed
    };
    fs::write(&scene.log, &text).unwrap();
    let completed = complete(&[4, 2], &[1, 2]);
    assert_eq!((completed.ahead, completed.taken_back, completed.strangers), (3, 3, 0));
    let all = scene.text();
    let appended = all.strip_prefix(&text).unwrap().lines().map(|line| &line[27..]);
    let taken_back = [
        "Deleted 192.0.2.1:1 [2001:db8::3]:1",
        "Deleted 192.0.2.1:2 [2001:db8::2]:1",
        "Created 192.0.2.1:1 [2001:db8::1]:1",
    ];
    assert_eq!(appended.collect::<Vec<_>>(), taken_back);
    // Once is enough, also where nothing was written since.
    assert_eq!(complete(&[], &[1, 2]), Completed::default());
    // Where not all of them stand in this file, nobody can tell what the tables had.
    fs::write(&scene.log, &text).unwrap();
    assert_eq!(complete(&[9, 2], &[1, 2]), Completed::default());
    assert_eq!(scene.text(), text);
    // The log was renamed just before: the rest stands in the other file.
    let (earlier, later) = text.split_at(text.len() / 6 * 4);
    fs::write(scene.file("events.log.1"), earlier).unwrap();
    fs::write(&scene.log, later).unwrap();
    let completed = complete(&[4, 2], &[1, 2]);
    assert_eq!((completed.ahead, completed.taken_back, completed.strangers), (3, 3, 0));
    let appended = scene.text().strip_prefix(later).unwrap().to_owned();
    assert_eq!(appended.lines().map(|line| &line[27..]).collect::<Vec<_>>(), taken_back);
    // And it was compressed since, as the journal could not be synced for long.
    let compressed = fs::File::create(scene.file("events.log.1.gz")).unwrap();
    let mut encoder = GzEncoder::new(compressed, Compression::fast());
    encoder.write_all(earlier.as_bytes()).unwrap();
    encoder.finish().unwrap();
    fs::remove_file(scene.file("events.log.1")).unwrap();
    fs::write(&scene.log, later).unwrap();
    assert_eq!(complete(&[4, 2], &[1, 2]), completed);
    assert_eq!(scene.text().strip_prefix(later).unwrap().lines().count(), 3);
    // Where that is damaged, nobody can tell.
    fs::write(scene.file("events.log.1.gz"), &earlier[..9]).unwrap();
    fs::write(&scene.log, later).unwrap();
    assert_eq!(complete(&[4, 2], &[1, 2]).ahead, 0);
}

/// The clock was set back, so what the journal lost is earlier than what it has.
#[test]
fn lines_behind_the_cursors_place_are_ahead_whatever_their_time() {
    let scene = Scene::new();
    let old = lines(&events(&[0], &[6]));
    let later = "2009-01-01 00:00:00.000001 Created 192.0.2.9:7 [2001:db8::9]:4000\n";
    fs::write(&scene.log, old.clone() + later).unwrap();
    scene.point(&scene.log, old.len() as u64, &[6]);
    let (completed, _) = scene.complete(vec![vec![]]);
    assert_eq!((completed.ahead, completed.taken_back, completed.strangers), (1, 1, 0));
    let text = scene.text();
    assert!(text.ends_with(" Deleted 192.0.2.9:7 [2001:db8::9]:4000\n"), "{text}");
}
