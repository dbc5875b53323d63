Feature: Models that nobody runs
  The queen starts what a request wants, once, and unloads what was used least when there is no room for both.

  Scenario: A crowd wants a model that nobody runs
    Given a fleet whose two models take the whole machine each
    When it is applied again
    Then the command ends with 0 and says "2 workers on demand"
    When a client asks "first" for one answer to "Hello"
    Then the client gets status 503 with code "model_loading"
    When 20 clients at once ask "first" and can wait
    Then each of them is answered
    And one worker runs, which is "one-0"
    And the queen has done 1 "WorkerSpawn"
    When 5 clients at once ask "second" and can wait
    Then each of them is answered
    And one worker runs, which is "two-0"
    And the queen has done 1 "WorkerUnload"
    When the command "status" is run
    Then the command ends with 0 and says "unloaded"
    When the command "plan --detailed-exitcode" is run
    Then the command ends with 0 and says "No changes"
