"""The user stories, composed once for window, command line and Python. Rooms that need torch are imported
when used.
"""

from __future__ import annotations

from napari_mil.workflow.analyse import PartialAnswer, analyse_steps, bag_steps, slide_bag_steps
from napari_mil.workflow.answering import Answered, SlideAnswer, answer_slides_steps, answer_table_steps
from napari_mil.workflow.cases import answer_case_steps
from napari_mil.workflow.checkpoints import Question, class_list, import_model, questions, take_checkpoint
from napari_mil.workflow.child import told_to_stop
from napari_mil.workflow.choosing import (
    known_encoders,
    method_choices,
    start_options,
    train_apart_steps,
    why_not_train,
)
from napari_mil.workflow.colours import converts, set_colours
from napari_mil.workflow.comparing import compare_steps, labels_apart, not_alike
from napari_mil.workflow.contradictions import Contradiction, contradictions
from napari_mil.workflow.difference import difference_steps
from napari_mil.workflow.editing import (
    cut,
    cut_file,
    draw,
    label_above,
    label_slides,
    label_tiles,
    lock,
    mended,
    note,
    unlock,
    with_hole,
    withdraw,
)
from napari_mil.workflow.encoding import add_encoder, find_encoder
from napari_mil.workflow.exchange import import_paths_steps
from napari_mil.workflow.explaining import explain_steps, explain_table_steps, write_columns
from napari_mil.workflow.history import (
    SlideHistory,
    conflict_rows,
    conflict_words,
    history_words,
    label_rows,
    log_rows,
    news_of_others,
    place_history,
    said_words,
    undo_row,
)
from napari_mil.workflow.learn import evaluate_steps, train_model_steps
from napari_mil.workflow.maps import export_maps_steps
from napari_mil.workflow.models import compare_cards
from napari_mil.workflow.naming import shown_names
from napari_mil.workflow.project import (
    Project,
    adopt,
    current_card,
    earlier_card,
    find_card,
    find_record,
    parse_mpp,
    roll_back,
    slide_label,
)
from napari_mil.workflow.readings import (
    agreement_report,
    labelled_place,
    place_key,
    read_again,
    readers,
    readings,
    report_lines,
    report_rows,
    second_places,
    second_questions,
    write_report,
)
from napari_mil.workflow.retrain import Retrained, retrain_here_steps, retrain_steps
from napari_mil.workflow.review import (
    answer_question,
    question_at,
    review_steps,
    skip_question,
)
from napari_mil.workflow.runs import has_recording, recordings
from napari_mil.workflow.sample import sample_project_steps
from napari_mil.workflow.sharing import backup, project_info, restore, share, unshare, verify_ledger
from napari_mil.workflow.studies import cross_validate_steps, search_model_steps
from napari_mil.workflow.tables import Table, about_slide, answer_columns, answer_numbers

__all__ = [
    "Answered",
    "Contradiction",
    "PartialAnswer",
    "Project",
    "Question",
    "Retrained",
    "SlideAnswer",
    "SlideHistory",
    "Table",
    "about_slide",
    "add_encoder",
    "adopt",
    "agreement_report",
    "analyse_steps",
    "answer_case_steps",
    "answer_columns",
    "answer_numbers",
    "answer_question",
    "answer_slides_steps",
    "answer_table_steps",
    "backup",
    "bag_steps",
    "class_list",
    "compare_cards",
    "compare_steps",
    "conflict_rows",
    "conflict_words",
    "contradictions",
    "converts",
    "cross_validate_steps",
    "current_card",
    "cut",
    "cut_file",
    "difference_steps",
    "draw",
    "earlier_card",
    "evaluate_steps",
    "explain_steps",
    "explain_table_steps",
    "export_maps_steps",
    "find_card",
    "find_encoder",
    "find_record",
    "has_recording",
    "history_words",
    "import_model",
    "import_paths_steps",
    "known_encoders",
    "label_above",
    "label_rows",
    "label_slides",
    "label_tiles",
    "labelled_place",
    "labels_apart",
    "lock",
    "log_rows",
    "mended",
    "method_choices",
    "news_of_others",
    "not_alike",
    "note",
    "parse_mpp",
    "place_history",
    "place_key",
    "project_info",
    "question_at",
    "questions",
    "read_again",
    "readers",
    "readings",
    "recordings",
    "report_lines",
    "report_rows",
    "restore",
    "retrain_here_steps",
    "retrain_steps",
    "review_steps",
    "roll_back",
    "said_words",
    "sample_project_steps",
    "search_model_steps",
    "second_places",
    "second_questions",
    "set_colours",
    "share",
    "shown_names",
    "skip_question",
    "slide_bag_steps",
    "slide_label",
    "start_options",
    "take_checkpoint",
    "told_to_stop",
    "train_apart_steps",
    "train_model_steps",
    "undo_row",
    "unlock",
    "unshare",
    "verify_ledger",
    "why_not_train",
    "with_hole",
    "withdraw",
    "write_columns",
    "write_report",
]
