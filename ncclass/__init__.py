"""The classroom: problem sets from one text source to a graded class, with nbgrader as the engine.

`problems` reads a set and makes the students' version, `handout` writes it for a class, `checking` is a student's own
check. `intake` reads what was handed in, `runner` is the process that runs it and hands over data, `collect` sends
submissions there and keeps what came back, `judging` turns it into points, `entered` reads what people have entered,
`gradebook` keeps nbgrader's record and the tables, `pages` writes what students and teachers read. `commands` is the
command line.
Explained on the page about teaching.
"""
