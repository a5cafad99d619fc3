"""The files of a run's folder, beside its checkpoints."""

RECORD = "run.json"
STUDENT = "student.kit"
SUBMISSION = "submission.csv"
PROVENANCE = "provenance.json"
ANSWERS = "validation.npz"
TEACHER = "teacher.ckpt"
LOG = "log.txt"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
REPORT = "report.html"
MADE_WITH = "it was made with"  # how provenance.json's problems name the options of a try
OWN = {RECORD, STUDENT, SUBMISSION, PROVENANCE, ANSWERS, TEACHER, LOG, METRICS, TIMING, REPORT}
