-- The old application knows one event, and so does all that came from it.
SELECT count(*) AS events FROM party.events HAVING count(*) <> 1
