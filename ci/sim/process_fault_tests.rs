//! The process on a disk that refuses something.

use super::*;
use crate::sim::{FAULTS, Fault};

/// At each operation of a start there is no room any more. Either it does not start, or it serves
/// whom it knows, and the others as soon as there is room.
#[test]
fn a_start_without_room_serves_whom_it_knows() {
    let (mut refused, mut waited) = (0, 0);
    for at in 0..120 {
        for reactors in [2, 3] {
            let mut scene = Scene::new(at as u8);
            scene.start(&small(2, SyncPolicy::None), Sockets::default());
            serve(&mut scene, 0);
            scene.until("all announced", |scene| scene.announced.len() == 12);
            drop(scene.process.take().unwrap().kill());
            scene.disk.fail(at, Fault::NoSpace, true);
            let config = small(reactors, SyncPolicy::None);
            match Process::start(&scene.place, &config, Sockets::default(), None, [3; 32]) {
                Err(why) => {
                    assert!(why.contains("No space left"), "{why}");
                    refused += 1;
                    scene.disk.heal();
                    scene.start(&config, Sockets::default());
                }
                Ok(process) => scene.process = Some(process),
            }
            let (known, stranger) = (Client::nth(10), Client::nth(77));
            if !scene.process().is_recording() {
                waited += 1;
                let before = scene.answers;
                scene.ask(nat64(1), request(*nat64(1).ip(), known));
                scene.ask(nat64(1), request(*nat64(1).ip(), stranger));
                scene.run(50);
                assert_eq!(scene.answers, before + 1);
                assert_eq!(scene.announced.len(), 12);
            }
            scene.disk.heal();
            scene.until("it records", |scene| scene.process.as_ref().unwrap().is_recording());
            scene.run(20);
            scene.ask(nat64(1), request(*nat64(1).ip(), stranger));
            scene.until("it is announced", |scene| scene.announced.len() == 13);
            scene.check_tables();
            scene.run(50);
            scene.check_log();
        }
    }
    assert!(refused > 5 && waited > 5, "{refused} {waited}");
}

/// At each operation of a process that serves there is an error of the disk, once or for good, or
/// no room for a while. What was announced is there afterwards.
#[test]
fn nothing_is_lost_by_a_disk_that_fails() {
    for sync in SYNCS {
        for (fault, for_good) in FAULTS {
            for at in 0..40 {
                let mut scene = Scene::new(at as u8);
                let config = ProcessConfig { interleaves: at % 2 == 0, ..small(2, sync) };
                scene.start(&config, Sockets::default());
                scene.disk.fail(at, fault, for_good);
                let mut first = 0;
                while first < 300 {
                    serve(&mut scene, first);
                    first += 100;
                }
                let sockets = scene.process.take().unwrap().kill();
                scene.disk.heal();
                if fault == Fault::Crash {
                    // It works for the next process, which finds what was written.
                    let disk = scene.disk.copy();
                    (scene.place.disk, scene.disk) = (Arc::new(disk.clone()), disk);
                }
                scene.start(&small(3, sync), sockets);
                scene.check_tables();
                scene.check_log();
            }
        }
    }
}
