//! Faults that the simulator found, each with the plan that showed it, which holds now.

use crate::plan::Plan;
use crate::run::simulate;

fn holds(plan: &str) {
    let words: Vec<_> = plan.split_whitespace().collect();
    let plan = Plan::parse(&words).expect("a plan");
    assert_eq!(simulate(&plan, None, false).broken, None, "{plan}");
}

/// The cursor of the log, which nobody has synced, may outlive a power cut, and records that it
/// counts may not: a start took their lines for right, and did not take them back.
#[test]
fn a_power_cut_leaves_no_line_of_a_record_that_is_lost() {
    holds("--seed 6436 --kinds rebinding,power-cut, --faults-until-ms 677 --without 0");
}

/// A log that could not be synced is compared at the next start. Where it was moved away twice
/// until then, lines of the file between were written once more.
#[test]
fn a_log_that_was_moved_twice_has_no_line_twice() {
    holds(
        "--seed 1440 --kinds unreachable,disk-full,log-rotation, --faults-until-ms 11194 \
         --without 1,3",
    );
}

/// A NAT64 that took its server for alive went on to ask it, also when its table was given up and
/// there was no room for it: its new clients got no answer, until there was.
#[test]
fn clients_of_a_nat64_that_is_not_admitted_again_are_served() {
    holds("--seed 288 --kinds rebinding,limits,drop-table, --faults-until-ms 1977 --without 0");
    holds(
        "--seed 18064 --kinds false-reports,power-cut,disk-error,limits, --faults-until-ms 31218 \
         --without 0,3,4,5,6,7,8,9,10,11,12,13",
    );
}

/// A power cut takes the record that a table came into being, and not its line: then it comes into
/// being once more, and `Initialized` ends what stands before it.
#[test]
fn a_table_that_a_power_cut_took_is_initialized_once_more() {
    holds(
        "--seed 410 --kinds rebinding,unreachable,power-cut,disk-full,hand-over, \
         --faults-until-ms 13113 --without 1,2,4,5,6,7,8,10,11",
    );
}

/// A NAT before a NAT64 gives its control channel another port, so the server may map the one that
/// the channel has at the NAT64: the NAT64 took no such answer, and its client was not served.
#[test]
fn a_client_whose_port_is_the_control_port_behind_a_nat_is_served() {
    holds(
        "--seed 24250 --kinds rebinding,reboot,drop-table,reload, --faults-until-ms 58893 \
         --without 1,5,6,9,10,11,12,13,15,16,17,20,21,23,24,25,26,27,28,32",
    );
    ["--seed 6169", "--seed 6221", "--seed 19936"].into_iter().for_each(holds);
}

/// A NAT64 took what a server said of a client, on another port, for the answer to its report of
/// that client, which the server had never got: so the log did not name who was behind the port.
#[test]
fn an_answer_that_contradicts_an_entry_is_no_answer_to_its_report() {
    holds(
        "--seed 24689 --kinds delay,strangers,false-reports,kill, --faults-until-ms 50431 \
         --without 8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,\
         35,36,37,38,39,40,41,42,43,44,45",
    );
    holds("--seed 19914");
}

/// The clock was set back, and then the power cut took records whose lines stand: they are earlier
/// than those before them, and were not taken back for that.
#[test]
fn lines_of_lost_records_are_taken_back_whatever_the_clock_said() {
    holds(
        "--seed 23702 --kinds loss,power-cut,disk-error,wall-jump, --faults-until-ms 4620 \
         --without 1,3",
    );
    holds(
        "--seed 14109 --kinds delay,false-reports,power-cut,disk-error,wall-jump,rotation, \
         --faults-until-ms 3960 --without 7,9,10,11,12,13,14,15,16,17,19",
    );
}

/// The judge's fault: it read the first line of a file as the end of the line that the power cut
/// in the file before.
#[test]
fn a_file_of_the_log_begins_with_a_line() {
    holds(
        "--seed 8037 --kinds unreachable,power-cut,log-rotation, --faults-until-ms 7247 \
         --without 1,5",
    );
    holds(
        "--seed 4147 --kinds corruption,unreachable,power-cut,disk-error,slow-disk,log-rotation, \
         --faults-until-ms 13302 --without 8,9,10,11,12,14,15",
    );
}

/// A power cut took the record that a table was given up, and not its lines: its entries were
/// `Created` again in a table that the log did not have.
#[test]
fn a_table_whose_end_a_power_cut_took_is_initialized_again() {
    holds(
        "--seed 29827 --kinds loss,delay,power-cut,ban,drop-table, --faults-until-ms 34458 \
         --without 8,9,11,15,16,17,21",
    );
    ["--seed 4940", "--seed 12855", "--seed 14870"].into_iter().for_each(holds);
}

/// The log was moved away, and then a power cut took records whose lines are the last ones of the
/// file that was moved: they were looked for in the other one alone.
#[test]
fn lines_of_lost_records_are_found_in_the_file_before() {
    holds(
        "--seed 3360 --kinds rebinding,unreachable,strangers,false-reports,power-cut,disk-error,\
         reactors,pause,limits,rotation,log-rotation, --faults-until-ms 43315 \
         --without 0,13,15,18,19,22,23,25,27,28,29,31,32",
    );
}

/// A power cut took records by which clients had changed their ports: when their lines were taken
/// back, a client was `Created` on the port that it had before it was `Deleted` from the other.
#[test]
fn a_client_that_gets_its_port_back_leaves_the_other_one_first() {
    holds(
        "--seed 3360 --kinds corruption,rebinding,unreachable,strangers,false-reports,power-cut,\
         pause,limits,rotation,log-rotation, --faults-until-ms 43315 \
         --without 0,11,12,13,15,18,23,26,28,29,30",
    );
    holds("--seed 3360");
}

/// The log could not be synced, and the file that its cursor named was compressed, as it was moved
/// to the name of a former day: its lines were written once more at the next start.
#[test]
fn a_file_that_the_cursor_names_is_not_compressed() {
    holds(
        "--seed 8413 --kinds false-reports,disk-full,wall-jump,log-rotation, \
         --faults-until-ms 23927 --without 0,3,4,5,9,10,11,15,16,17,20",
    );
    holds("--seed 8413");
}

/// The log was moved away 18 times while it could not be synced, and no more than 16 of its files
/// were compared.
#[test]
fn all_files_of_a_log_that_was_moved_often_are_compared() {
    holds(
        "--seed 26656 --kinds false-reports,disk-full,limits,log-rotation, \
         --faults-until-ms 87468 --without 0,1,2,3,4,6,7,8,10,11,12,13,14,15,16,17,18,19,20,21,22,\
         23,25,26,27,28,29,35,36,37,38,39,41,42,43,44,47,54,56,63,65,67,70,71,72,73,74,75,76,77,78",
    );
    holds("--seed 26656");
}

/// The simulator's fault: it reckoned with the time that a corrupted packet said.
#[test]
fn the_time_that_a_corrupted_packet_says_may_be_any() {
    holds("--seed 36127");
}

/// A NAT64 took the answer to the report of one client for that to a later report of several, which
/// was lost: the log did not name the others.
#[test]
fn an_answer_to_a_report_of_one_is_none_to_that_of_several() {
    holds("--seed 69915 --faults-until-ms 19594");
    holds("--seed 69915");
}

/// The server was killed while its disk was full, could not read the cursor of its log at the next
/// start, and had its log moved away before it could write another one: it wrote a line once more
/// that the file before has.
#[test]
fn a_line_of_a_log_whose_cursor_could_not_be_read_is_there_once() {
    holds(
        "--seed 55910 --kinds loss,unreachable,kill-in-disk,disk-full,slow-disk,hand-over,\
         pause,limits,log-rotation, --faults-until-ms 28949 \
         --without 0,9,10,11,12,18,22,23,25,30,31,32,33,34,35,36,37,38,39,40,41,48,49,50,51,\
         52,53,54,55,58,59,60,61,62,63,64,65,66,67,68,69,70,71,72,73,74,75,76,78,79",
    );
    holds("--seed 55910");
}

/// The log could not be synced and was moved away twice. Then a power cut took records whose lines
/// are in the file between, which were not taken back.
#[test]
fn lines_of_lost_records_in_a_file_between_are_taken_back() {
    holds(
        "--seed 134363 --kinds false-reports,power-cut,disk-error,disk-full,hand-over,pause,\
         log-rotation, --faults-until-ms 19553 \
         --without 1,4,7,8,9,10,11,16,17,18,19,21,22,23,24,25,26,27",
    );
    holds("--seed 134363");
    holds("--seed 183831");
}

/// The judge's fault: two NAT64s are held where one is allowed, as a power cut took from the
/// journal of one shard that its table was given up, and left in that of another what came then.
#[test]
fn a_power_cut_may_bring_back_what_exceeds_a_limit() {
    holds(
        "--seed 138122 --kinds strangers,power-cut,disk-full,slow-disk,limits,drop-table, \
         --faults-until-ms 47677 --without 0,16,17,18,19,20,21,22,23,24,25,26,27,29",
    );
    holds("--seed 138122");
}

/// A NAT64 with a long token did not believe that its server's port is closed, as the error quotes
/// a part of that token: it repeated its report to nobody, and gave that up.
#[test]
fn a_nat64_believes_an_error_that_quotes_a_part_of_its_token() {
    holds(
        "--seed 180371 --faults-until-ms 93248 \
         --without 20,82,83,86,87,88,89,91,92,93,94,95,96,97,100,101,102,103,104,105",
    );
    holds("--seed 180371");
}

/// The judge's fault: it did not wait for a log that naps under load.
#[test]
fn a_log_that_naps_is_waited_for() {
    holds("--seed 301406 --kinds rebinding,pause, --faults-until-ms 10112");
    holds("--seed 301406");
}

/// The judge's fault: fragments of two packets with the same identification were joined, and it
/// took for the packet's content what its checksum does not fit.
#[test]
fn a_packet_with_a_wrong_checksum_has_no_content() {
    holds("--seed 304749");
}

/// The journal could not be synced for so long that the log was moved away and compressed, before
/// a power cut took what its lines say: they were not looked for there.
#[test]
fn lines_of_lost_records_are_found_in_a_compressed_file() {
    holds(
        "--seed 266593 --kinds lost-fragments,rebinding,forged-unreachable,strangers,\
         false-reports,power-cut,disk-full,wall-jump,reboot,drop-table,reload,log-rotation, \
         --faults-until-ms 43537 --without 10,11,13,14,15,17,20,30,31,49,50,51,55,56,57,58,59,60,\
         61,62,63,64,65,66,67,68,76,77,78,79,80,81,82,83,84",
    );
    holds("--seed 266593");
}

/// The judge's fault: what was announced had been deleted, and had come again, and the log had not
/// got that yet when the power cut took the second.
#[test]
fn what_was_deleted_since_it_was_announced_may_be_lost() {
    holds(
        "--seed 665097 --kinds delay,lost-fragments,power-cut,disk-full,slow-disk,drop-table, \
         --faults-until-ms 7432 --without 7,8,10,11,12,13",
    );
    holds("--seed 278557");
}

/// The judge's fault: a NAT64 got what was announced first after what was announced last.
#[test]
fn an_answer_that_was_overtaken_is_believed() {
    holds(
        "--seed 398585 --kinds loss,delay,lost-fragments,rebinding,unreachable,strangers,\
         kill-in-disk,reactors,limits,drop-table,reload, --faults-until-ms 19098 \
         --without 0,68,69,70,71,76,77,82,83,84,85,86,88,89,90,91,92,93,94,95,96,97,98,99,100,101,\
         102,103,104,105,106",
    );
    holds("--seed 398585");
}

/// The judge's fault: a NAT64 that rebooted mapped a client to the port of its old control channel
/// when an answer to that was on its way.
#[test]
fn an_answer_to_a_control_channel_of_before_a_reboot_has_no_content() {
    holds(
        "--seed 370904 --kinds lost-fragments,forged-unreachable,kill,kill-in-disk,slow-disk,\
         limits,reboot,rotation,ban,drop-table, --faults-until-ms 18587 --without 0,17,18",
    );
    holds("--seed 370904");
}

/// The judge's fault: where a table has not room for all, an entry goes before the answer comes.
#[test]
fn a_client_whose_entry_went_was_served() {
    holds(
        "--seed 807497 --kinds duplication,corruption,strangers,kill-in-disk,limits, \
         --without 0,4",
    );
    holds("--seed 807497");
}

/// The judge's fault: an entry was created and deleted within one step, and the disk took the
/// first of the two records alone, so the name stayed.
#[test]
fn a_name_stays_as_long_as_the_end_of_its_entry_is_not_recorded() {
    holds("--seed 804192 --without 793,794,795,796,797,798,799,800,801,802,803,804,805,806,807");
    holds("--seed 804192");
}

/// A NAT64 took the answer to a request that had waited at its server for the answer to its multi
/// report, which the server had not understood, as it knew neither of its last two tokens: so the
/// log did not name who was behind the ports.
#[test]
fn an_answer_with_a_packet_is_none_to_a_multi_report() {
    holds("--seed 917398 --kinds unreachable,kill,rotation, --faults-until-ms 9904 --without 5,7");
    holds("--seed 917398");
}
