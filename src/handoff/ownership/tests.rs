use std::net::Ipv4Addr;

use super::*;

const ME: HostRun = HostRun { host: HostId(1), number: 11 };
const OTHER: HostRun = HostRun { host: HostId(2), number: 22 };
const THIRD: HostRun = HostRun { host: HostId(3), number: 33 };

fn table() -> TableKey {
    TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64: Ipv4Addr::new(192, 0, 2, 7) }
}

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// An ownership, and what it wants done.
struct Host {
    ownership: Ownership,
    actions: Vec<ToDo>,
    revision: u64,
}

impl Host {
    fn new() -> Self {
        let ownership = Ownership::new(ME, OwnershipLimits::default(), ms(0));
        Self { ownership, actions: Vec::new(), revision: 0 }
    }

    fn asked(&mut self, at: u64) -> WhoAnswers {
        self.ownership.asked(ms(at), table(), None, &mut self.actions)
    }

    fn watched(&mut self, at: u64, owner: HostRun, cause: Cause, by: (HostRun, u64)) {
        self.revision += 1;
        let claim = Some((table(), Claim { owner, cause, by }));
        self.ownership.watched(ms(at), Revision(self.revision), claim, &mut self.actions);
    }

    /// The only transaction that it sends, with its number.
    fn sent(&mut self) -> (u64, Transaction) {
        match self.actions.drain(..).collect::<Vec<_>>().as_slice() {
            [ToDo::Send { id, transaction }] => (*id, transaction.clone()),
            others => panic!("{others:?}"),
        }
    }

    fn outcome(&mut self, at: u64, id: u64, outcome: Outcome) -> Vec<ToDo> {
        self.ownership.outcome(ms(at), id, outcome, &mut self.actions);
        std::mem::take(&mut self.actions)
    }

    /// It ticks until then, and its confirmations arrive.
    fn tick_until(&mut self, from: u64, to: u64, is_recorded: bool) {
        for at in (from..=to).step_by(100) {
            self.ownership.tick(ms(at), |_| is_recorded, &mut self.actions);
            for action in std::mem::take(&mut self.actions) {
                match action {
                    ToDo::Send { id, transaction: Transaction::Confirm { .. } } => {
                        let done = Outcome::Done(Revision(self.revision));
                        self.ownership.outcome(ms(at), id, done, &mut self.actions);
                    }
                    other => self.actions.push(other),
                }
            }
        }
    }

    /// Asks about the table that nobody has, and gets it.
    fn owner() -> Self {
        let mut host = Self::new();
        assert_eq!(host.asked(0), WhoAnswers::Wait);
        let (id, _) = host.sent();
        host.watched(10, ME, Cause::New, (ME, id));
        assert_eq!(host.outcome(20, id, Outcome::Done(Revision(1))), [ToDo::Won(table())]);
        host
    }
}

#[test]
fn what_nobody_has_is_claimed_and_answered_when_the_claim_is_watched() {
    let mut host = Host::new();
    assert_eq!(host.asked(0), WhoAnswers::Wait);
    let (id, transaction) = host.sent();
    let claim = Claim { owner: ME, cause: Cause::New, by: (ME, id) };
    assert_eq!(transaction, Transaction::Claim { table: table(), seen: None, claim });
    // Without an answer it is sent again as it was.
    let again = host.outcome(250, id, Outcome::Unknown);
    assert_eq!(again, [ToDo::Send { id, transaction }]);
    assert_eq!(host.outcome(260, id, Outcome::Done(Revision(1))), []);
    assert_eq!(host.asked(261), WhoAnswers::Wait);
    host.watched(270, ME, Cause::New, (ME, id));
    assert_eq!(host.actions, [ToDo::Won(table())]);
    assert_eq!(host.asked(271), WhoAnswers::Answer { deletes: true });
}

#[test]
fn an_owner_that_is_not_confirmed_falls_silent() {
    let mut host = Host::owner();
    // Confirmed is when it was asked for, not when the answer came.
    assert_eq!(host.asked(1999), WhoAnswers::Answer { deletes: true });
    assert!(host.ownership.may_answer(ms(1999), table()));
    assert_eq!(host.asked(2000), WhoAnswers::Silent(Unanswerable::Unconfirmed));
    assert!(!host.ownership.may_answer(ms(2000), table()));
    host.tick_until(2000, 2000, true);
    assert_eq!(host.asked(3999), WhoAnswers::Answer { deletes: true });
    assert!(host.ownership.is_ready(ms(2999)) && !host.ownership.is_ready(ms(3000)));
}

#[test]
fn anothers_is_passed_on_and_taken_when_that_one_is_gone() {
    let mut host = Host::new();
    host.watched(0, OTHER, Cause::New, (OTHER, 1));
    host.ownership.heard(ms(0), OTHER);
    host.tick_until(0, 200, true);
    assert_eq!(host.asked(299), WhoAnswers::PassOn(OTHER.host, Revision(1)));
    host.tick_until(300, 300, true);
    // One that came here by mistake goes no further than it may.
    let passed = PassedOn { by: HostId(3), times: PassedOn::TIMES_MAX, claimed: Revision(1) };
    let asked = |host: &mut Host, at, passed| {
        host.ownership.asked(ms(at), table(), Some(passed), &mut host.actions)
    };
    let too_often = WhoAnswers::Silent(Unanswerable::PassedOnTooOften);
    assert_eq!(asked(&mut host, 299, passed), too_often);
    // Who passed it on knows more.
    let ahead = PassedOn { claimed: Revision(2), ..passed };
    assert_eq!(asked(&mut host, 299, ahead), WhoAnswers::Wait);
    assert_eq!(host.asked(300), WhoAnswers::Wait);
    let (id, transaction) = host.sent();
    let claim = Claim { owner: ME, cause: Cause::Lost, by: (ME, id) };
    let seen = Some(Revision(1));
    assert_eq!(transaction, Transaction::Claim { table: table(), seen, claim });
    host.watched(310, ME, Cause::Lost, (ME, id));
    // The other may still answer, by what it knows: nothing of that is deleted.
    assert_eq!(host.asked(311), WhoAnswers::Answer { deletes: false });
    host.tick_until(400, 3300, true);
    assert_eq!(host.asked(3309), WhoAnswers::Answer { deletes: false });
    assert_eq!(host.asked(3310), WhoAnswers::Answer { deletes: true });
}

#[test]
fn a_run_that_listens_to_nobody_takes_nobody_for_gone() {
    let mut host = Host::new();
    host.watched(0, OTHER, Cause::New, (OTHER, 1));
    host.ownership.heard(ms(0), OTHER);
    // It was stopped, and has heard nobody meanwhile.
    host.tick_until(9000, 9000, true);
    assert_eq!(host.asked(9299), WhoAnswers::PassOn(OTHER.host, Revision(1)));
    // Another run of the host: the one that had the table is over.
    host.ownership.heard(ms(9299), HostRun { number: 23, ..OTHER });
    assert_eq!(host.asked(9299), WhoAnswers::Wait);
}

#[test]
fn what_is_refused_is_lost_unless_it_was_claimed_again() {
    let mut host = Host::owner();
    assert_eq!(host.ownership.record(ms(30), [table()], &mut host.actions), Some(1));
    let (id, transaction) = host.sent();
    let tables = vec![(table(), Revision(1))];
    assert_eq!(transaction, Transaction::Record { number: 1, tables });
    assert_eq!(host.ownership.record(ms(31), [table()], &mut host.actions), None, "one at a time");
    // Another host took it, and this one takes it from that again.
    host.watched(40, OTHER, Cause::Lost, (OTHER, 1));
    assert_eq!(std::mem::take(&mut host.actions), [ToDo::Lost(table())]);
    host.tick_until(100, 700, true);
    assert_eq!(host.asked(740), WhoAnswers::Wait);
    let (claim, _) = host.sent();
    host.watched(750, ME, Cause::Lost, (ME, claim));
    assert_eq!(std::mem::take(&mut host.actions), [ToDo::Won(table())]);
    let refused = host.outcome(760, id, Outcome::Refused(vec![table()]));
    assert_eq!(refused, [ToDo::Refused(1)]);
    assert_eq!(host.asked(761), WhoAnswers::Answer { deletes: false });
    // The next record, which has its number, is about the new claim, and is refused: that is lost.
    assert_eq!(host.ownership.record(ms(770), [table()], &mut host.actions), Some(1));
    let (id, _) = host.sent();
    let refused = host.outcome(780, id, Outcome::Refused(vec![table()]));
    assert_eq!(refused, [ToDo::Lost(table()), ToDo::Refused(1)]);
    assert_eq!(host.asked(781), WhoAnswers::Wait, "until it is watched who has it");
}

#[test]
fn a_table_goes_to_the_host_that_its_requests_come_through() {
    let mut host = Host::owner();
    let passed = PassedOn { by: OTHER.host, times: 1, claimed: Revision(1) };
    for at in (100..=10_100).step_by(100) {
        host.ownership.heard(ms(at), OTHER);
        host.tick_until(at, at, false);
        let verdict = host.ownership.asked(ms(at), table(), Some(passed), &mut host.actions);
        let stops = at >= 10_010;
        assert_eq!(verdict == WhoAnswers::Wait, stops, "{at}: {verdict:?}");
    }
    // What is not recorded yet is recorded first.
    assert_eq!(std::mem::take(&mut host.actions), []);
    assert!(host.ownership.may_answer(ms(10_100), table()));
    host.ownership.tick(ms(10_200), |_| true, &mut host.actions);
    let (id, transaction) = host.sent();
    let claim = Claim { owner: OTHER, cause: Cause::Given, by: (ME, id) };
    let seen = Some(Revision(1));
    assert_eq!(transaction, Transaction::Claim { table: table(), seen, claim });
    assert!(!host.ownership.may_answer(ms(10_200), table()), "it may be given by now");
    host.watched(10_210, OTHER, Cause::Given, (ME, id));
    assert_eq!(std::mem::take(&mut host.actions), [ToDo::Lost(table())]);
    assert_eq!(host.asked(10_211), WhoAnswers::PassOn(OTHER.host, Revision(2)));
}

#[test]
fn who_leaves_gives_all_away_and_claims_nothing() {
    let mut host = Host::owner();
    host.ownership.leave(ms(100));
    host.tick_until(100, 500, true);
    assert_eq!(host.asked(510), WhoAnswers::Answer { deletes: true }, "nobody else is there");
    host.ownership.heard(ms(600), OTHER);
    host.ownership.tick(ms(600), |_| true, &mut host.actions);
    let given = |action: &ToDo| match action {
        ToDo::Send { transaction: Transaction::Claim { claim, .. }, .. } => claim.owner == OTHER,
        _ => false,
    };
    assert_eq!(host.actions.iter().filter(|action| given(action)).count(), 1);
    assert_eq!(host.asked(610), WhoAnswers::Wait);
    assert_eq!(host.ownership.owned(), 1, "until that is watched");
    host.watched(620, OTHER, Cause::Given, (ME, 9));
    assert_eq!(host.ownership.owned(), 0);
}

#[test]
fn what_is_given_is_answered_once_it_is_confirmed() {
    let mut host = Host::new();
    host.watched(0, OTHER, Cause::New, (OTHER, 1));
    host.watched(10, ME, Cause::Given, (OTHER, 2));
    let [ToDo::Won(won), ToDo::Send { id, transaction }] = host.actions.as_slice() else {
        panic!("{:?}", host.actions);
    };
    let tables = vec![(table(), Revision(2))];
    assert_eq!((*won, transaction), (table(), &Transaction::Confirm { tables }));
    let id = *id;
    // What is watched may be long ago.
    assert_eq!(host.asked(11), WhoAnswers::Wait);
    host.outcome(12, id, Outcome::Done(Revision(2)));
    assert_eq!(host.asked(13), WhoAnswers::Answer { deletes: true });
}

#[test]
fn what_was_not_watched_is_read_anew() {
    let mut host = Host::owner();
    let claims = [(table(), Revision(1), Claim { owner: ME, cause: Cause::New, by: (ME, 1) })];
    host.ownership.read_anew(ms(30), Revision(40), claims, &mut host.actions);
    assert_eq!(host.actions, [], "it is owned still");
    let claims =
        [(table(), Revision(44), Claim { owner: OTHER, cause: Cause::Lost, by: (OTHER, 1) })];
    host.ownership.read_anew(ms(40), Revision(50), claims, &mut host.actions);
    assert_eq!(host.actions, [ToDo::Lost(table())]);
    host.ownership.heard(ms(41), OTHER);
    assert_eq!(host.asked(41), WhoAnswers::PassOn(OTHER.host, Revision(44)));
}

#[test]
fn a_claim_that_was_over_before_it_could_be_watched_is_none() {
    let mut host = Host::new();
    assert_eq!(host.asked(0), WhoAnswers::Wait);
    let (id, _) = host.sent();
    // It was done at revision 1, and another host took the table before all was read anew.
    let claim = Claim { owner: OTHER, cause: Cause::Lost, by: (OTHER, 1) };
    let claims = [(table(), Revision(2), claim)];
    host.ownership.heard(ms(10), OTHER);
    host.ownership.read_anew(ms(10), Revision(2), claims, &mut host.actions);
    assert_eq!(host.asked(11), WhoAnswers::Wait);
    assert_eq!(host.outcome(12, id, Outcome::Done(Revision(1))), []);
    assert_eq!(host.asked(13), WhoAnswers::PassOn(OTHER.host, Revision(2)));
}

impl Host {
    fn progressed(&mut self, at: u64, run: HostRun, watched: u64, leaves: bool) {
        let progress = HostProgress { watched: Revision(watched), leaves };
        self.ownership.progressed(ms(at), run, progress);
    }

    /// It ticks until then while these are there, and gives no table away meanwhile.
    fn keeps_until(&mut self, from: u64, to: u64, there: &[HostRun]) {
        for at in (from..=to).step_by(100) {
            there.iter().for_each(|&run| self.ownership.heard(ms(at), run));
            self.tick_until(at, at, true);
            assert_eq!(self.actions, [], "at {at}");
        }
    }

    /// It gives its table to this one with the next tick.
    fn gives(&mut self, at: u64, to: HostRun) {
        self.ownership.tick(ms(at), |_| true, &mut self.actions);
        let given = self.actions.extract_if(.., |action| match action {
            ToDo::Send { transaction: Transaction::Claim { claim, .. }, .. } => claim.owner == to,
            _ => false,
        });
        assert_eq!(given.count(), 1);
        self.actions.clear();
    }
}

#[test]
fn hosts_that_leave_at_once_give_each_other_nothing() {
    let mut host = Host::owner();
    let there = [OTHER];
    host.keeps_until(100, 300, &there);
    // Both begin, and the other says so with the next datagram.
    host.ownership.leave(ms(300));
    host.keeps_until(400, 400, &there);
    host.progressed(400, OTHER, 1, true);
    assert!(!host.ownership.hears_others(ms(400)), "nobody who may be given anything");
    host.keeps_until(500, 5000, &there);
    assert_eq!(host.asked(5001), WhoAnswers::Answer { deletes: true }, "as it has it still");
    let other = TableKey { nat64: Ipv4Addr::new(192, 0, 2, 8), ..table() };
    let asked = host.ownership.asked(ms(5002), other, None, &mut host.actions);
    assert_eq!(asked, WhoAnswers::Silent(Unanswerable::NobodyElse), "it is not passed in a circle");
    // What was said last may arrive before what was said first.
    host.progressed(5003, OTHER, 1, false);
    host.keeps_until(5100, 5100, &there);
    // Somebody who stays gets it; so does the next run of the other.
    host.ownership.heard(ms(5150), THIRD);
    assert!(host.ownership.hears_others(ms(5150)));
    let mut again = Host::owner();
    again.progressed(0, OTHER, 1, true);
    again.ownership.leave(ms(0));
    again.keeps_until(100, 300, &there);
    again.ownership.heard(ms(350), HostRun { number: 23, ..OTHER });
    again.gives(350, HostRun { number: 23, ..OTHER });
    host.gives(5150, THIRD);
}

#[test]
fn what_was_to_be_given_to_a_host_that_leaves_is_kept() {
    let mut host = Host::owner();
    host.ownership.leave(ms(0));
    host.ownership.heard(ms(300), OTHER);
    host.ownership.tick(ms(300), |_| false, &mut host.actions);
    assert_eq!(host.asked(301), WhoAnswers::Wait, "it stops, and is recorded first");
    host.progressed(302, OTHER, 1, true);
    host.tick_until(400, 400, true);
    assert_eq!(host.actions, []);
    assert_eq!(host.asked(401), WhoAnswers::Answer { deletes: true });
}

#[test]
fn what_comes_to_a_host_that_leaves_goes_on_and_not_back() {
    let mut host = Host::new();
    host.ownership.leave(ms(0));
    host.watched(0, OTHER, Cause::New, (OTHER, 1));
    host.progressed(200, OTHER, 1, true);
    // The other has not heard in time that this one leaves, too.
    host.watched(210, ME, Cause::Given, (OTHER, 2));
    host.actions.clear();
    host.keeps_until(300, 1000, &[OTHER]);
    host.ownership.heard(ms(1050), THIRD);
    host.gives(1050, THIRD);
}

/// Of an owner that leaves at once, and has given its table to the other at revision 2.
fn host_that_left() -> Host {
    let mut host = Host::owner();
    host.progressed(100, OTHER, 1, false);
    host.ownership.leave(ms(100));
    assert!(!host.ownership.is_followed(ms(310)), "it has a table");
    host.ownership.heard(ms(300), OTHER);
    host.gives(310, OTHER);
    host.watched(320, OTHER, Cause::Given, (ME, 9));
    host
}

#[test]
fn who_leaves_may_end_when_all_others_have_seen_that_its_tables_are_theirs() {
    let mut host = host_that_left();
    assert_eq!(host.ownership.owned(), 0);
    host.progressed(400, OTHER, 1, false);
    assert!(!host.ownership.is_followed(ms(400)), "the other passes on to it still");
    // One that has left before passes on as well, though it does not say that it is there.
    host.progressed(400, THIRD, 1, true);
    host.progressed(500, OTHER, 2, false);
    assert!(!host.ownership.is_followed(ms(500)));
    host.progressed(500, THIRD, 3, true);
    assert!(host.ownership.is_followed(ms(500)));
    // What arrives late takes nothing back.
    host.progressed(501, OTHER, 1, false);
    assert!(host.ownership.is_followed(ms(501)));
    // A run that begins says how far it is.
    host.progressed(502, HostRun { number: 23, ..OTHER }, 1, false);
    assert!(!host.ownership.is_followed(ms(502)));
}

#[test]
fn who_leaves_waits_for_no_host_that_is_not_heard_nor_for_a_version_that_says_nothing() {
    let mut host = host_that_left();
    host.progressed(400, OTHER, 1, false);
    assert!(!host.ownership.is_followed(ms(1399)));
    assert!(host.ownership.is_followed(ms(1400)), "it hangs");
    // A version that says only that it is there: it has the time in which hosts are gone.
    let mut host = host_that_left();
    host.progressed(330, OTHER, 2, false);
    assert!(host.ownership.is_followed(ms(619)));
    host.ownership.heard(ms(330), THIRD);
    assert!(!host.ownership.is_followed(ms(619)));
    assert!(host.ownership.is_followed(ms(620)));
    // Who stays is not to end, and who has nothing says first that it leaves.
    let mut host = Host::new();
    assert!(!host.ownership.is_followed(ms(1000)));
    host.ownership.leave(ms(1000));
    assert!(!host.ownership.is_followed(ms(1199)));
    assert!(host.ownership.is_followed(ms(1200)));
}
