//! Whether a command says only what this version knows.
//!
//! What a later version adds within a command decodes to nothing here. To take that for "no condition", or for a comparison
//! that does not hold, would make this node's state another one than theirs.

use mokv_proto::internal::{Compare, Condition, Txn, compare, txn_op};

use crate::command::{Command, Op};

/// The operation, if this version knows all that is in it.
pub(super) fn operation(command: &Command) -> Option<&Op> {
    let op = command.op.as_ref()?;
    let is_known = match op {
        Op::Set(set) => is_condition(set.condition.as_ref()),
        Op::Delete(delete) => is_condition(delete.condition.as_ref()),
        Op::Txn(txn) => is_txn(txn),
        _ => true,
    };
    is_known.then_some(op)
}

fn is_condition(condition: Option<&Condition>) -> bool {
    condition.is_none_or(|condition| condition.is.is_some())
}

fn is_txn(txn: &Txn) -> bool {
    txn.compare.iter().all(is_compare)
        && txn.then.iter().chain(&txn.otherwise).all(|op| match &op.op {
            Some(txn_op::Op::Set(set)) => is_condition(set.condition.as_ref()),
            Some(txn_op::Op::Delete(delete)) => is_condition(delete.condition.as_ref()),
            Some(txn_op::Op::Txn(txn)) => is_txn(txn),
            Some(txn_op::Op::DeleteRange(_) | txn_op::Op::Get(_) | txn_op::Op::Scan(_)) => true,
            None => false,
        })
}

fn is_compare(compare: &Compare) -> bool {
    compare.target.is_some() && compare::Operator::try_from(compare.operator).is_ok()
}
