Feature: One file, one command, one address
  A developer writes rbee.yaml, applies it, and every OpenAI client talks to one address.

  Scenario: The first apply answers a client
    Given a fleet of one machine that was applied
    When a client asks "bee-tiny" for a streamed answer to "What is rbee?"
    Then whole English sentences come back, ended by the model itself
    And the answer's headers name the worker "chat-0" and the hive "here"

  Scenario: An alias is a name like any other
    Given a fleet of one machine that was applied
    When a client asks "gpt-4o-mini" for one answer to "Hello"
    Then whole English sentences come back, ended by the model itself
    And the client's list of models names "bee-tiny" and "gpt-4o-mini"

  Scenario: Applying an applied file changes nothing and starts nothing
    Given a fleet of one machine that was applied
    When it is applied again
    Then the command ends with 0 and says "No changes"
    And every process is the one it was

  Scenario: A plan says what it would do by its exit code
    Given a fleet of one machine that was applied
    When the command "plan --detailed-exitcode" is run
    Then the command ends with 0 and says "No changes"

  Scenario: Status tells the fleet
    Given a fleet of one machine that was applied
    When the command "status" is run
    Then the command ends with 0 and says "chat-0"

  Scenario: Infer is for trying a model from the shell
    Given a fleet of one machine that was applied
    When the command "infer --model gpt-4o-mini --temperature 0 --prompt Hello" is run
    Then the command ends with 0 and says "tokens/s"

  Scenario: An unknown model is refused as OpenAI would
    Given a fleet of one machine that was applied
    When a client asks "gpt-nonsense" for one answer to "Hello"
    Then the client gets status 404 with code "model_not_found"

  Scenario Outline: What OpenAI would refuse is refused
    Given a fleet of one machine that was applied
    When a client sends <field> <value>
    Then the client gets status 400 about "<field>"

    Examples:
      | field       | value |
      | temperature | -1    |
      | temperature | 5     |
      | top_p       | 3     |
      | max_tokens  | 0     |

  Scenario: A changed option replaces its worker and nothing else
    Given a fleet of its own that was applied
    When "parallel: 2" becomes "parallel: 3" in the file
    And the command "plan --detailed-exitcode" is run
    Then the command ends with 2 and says "1 to replace"
    When it is applied again
    Then the command ends with 0 and says "2 done"
    And the queen's process is the one it was

  Scenario: Aliases, policies and limits change while clients are served
    Given a fleet of its own that was applied
    And clients that ask "gpt-4o-mini" for streamed answers all the time
    When "aliases: {gpt-4o-mini: bee-tiny}" becomes "aliases: {gpt-4o-mini: bee-tiny, gpt-5: bee-tiny}" in the file
    And the file has further lines
      """
      policies:
        short: {reject: request.max_tokens > 4000, reason: Ask for less.}
      """
    And "queen: {" becomes "queen: {limits: {queue: 50}, " in the file
    And it is applied again
    Then the command ends with 0 and says "1 done"
    And every process is the one it was
    And the clients had every answer whole, those during the apply too
    When a client asks "gpt-5" for one answer to "Hello"
    Then whole English sentences come back, ended by the model itself
    When a client sends max_tokens 5000
    Then the client is refused with 403 and "Ask for less."

  Scenario: A stale plan is refused
    Given a fleet of its own that was applied
    When "parallel: 2" becomes "parallel: 3" in the file
    And the command "plan --out plan.json" is run
    And "parallel: 3" becomes "parallel: 4" in the file
    And the command "apply plan.json" is run
    Then the command ends with 1 and says "stale"

  Scenario: A worker that is killed is there again without anyone's help, or after the next apply
    Given a fleet of its own that was applied
    When the worker is killed with SIGKILL
    Then no engine of it is left
    And a client that keeps asking "bee-tiny" is answered again
    When it is applied until nothing changes
    And a client asks "bee-tiny" for one answer to "Hello"
    Then whole English sentences come back, ended by the model itself

  Scenario: An engine that is killed is started again by its worker
    Given a fleet of its own that was applied
    When the engine is killed with SIGKILL
    Then a client that keeps asking "bee-tiny" is answered again
    And the worker's process is the one it was

  Scenario: A queen that is killed finds her fleet again
    Given a fleet of its own that was applied
    When the queen is killed with SIGKILL
    And it is applied again
    Then the command ends with 0 and says "queen.start"
    And the worker's process is the one it was
    And a client that keeps asking "bee-tiny" is answered again

  Scenario: A queen that cannot start with new settings goes on with her old ones
    Given a fleet of its own that was applied
    When "queen: {" becomes "queen: {store: 'postgresql://rbee@127.0.0.1:1/rbee', " in the file
    And it is applied again
    Then the command ends with 1 and says "She has her old ones back and runs with them"
    And it says "The database postgresql://127.0.0.1:1/rbee cannot be used"
    And it says "queen.log"
    And the queen's log tells of nothing that was left open
    And the worker's process is the one it was
    And a client that keeps asking "bee-tiny" is answered again
    When the command "plan --detailed-exitcode" is run
    Then the command ends with 2 and says "queen.restart"
    When "queen: {store: 'postgresql://rbee@127.0.0.1:1/rbee', " becomes "queen: {" in the file
    And it is applied again
    Then the command ends with 0 and says "No changes"

  Scenario: Destroy leaves nothing running and nothing marked
    Given a fleet of its own that was applied
    When the command "destroy --auto-approve" is run
    Then the command ends with 0 and says "Destroy complete"
    And no process of it is left
    And no model, engine, token or settings are left
