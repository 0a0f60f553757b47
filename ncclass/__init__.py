"""The classroom: problem sets from one text source to a graded class, with nbgrader's gradebook as the record.

What a class gets:

- `problem_sets` reads a set and makes the students' version of it,
- `answers` says what a set asks of a solution, and compares: hidden tests import it, and so does grading,
- `student_kit` writes the folder for a class,
- `checking` is a student's own check before handing in.

From what was handed in to a grade:

- `collection` has the course folder; it runs each submission and keeps what that handed over,
- `submissions` reads files that may be anything,
- `runner` is the process in which a submission runs,
- `sandbox`, a room that knows no class, isolates that process,
- `grading` turns what was handed over into points,
- `gradebook` keeps nbgrader's gradebook, `marks` imports the table in which a teacher marks by hand,
- `reports` writes the pages for students and teacher, `tables` writes CSV that spreadsheets can open.

`commands` is the command line, `ncutil class`. The page about teaching explains all of it.
"""
