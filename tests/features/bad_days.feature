Feature: Bad input and bad days
  What is wrong is said at once, with where, why and how to mend; and nothing is lost.

  Scenario: Nobody to ask
    Given a fleet that was not applied
    When the command "apply" is run
    Then the command ends with 1 and says "Approve it with --auto-approve"
    And no process of it is left

  Scenario: Two applies at once
    Given a fleet that was not applied
    And another apply holds the lock
    When the command "apply --auto-approve" is run
    Then the command ends with 1 and says "rbee apply"
    And it says "since"

  Scenario: A corrupt model fails with its reason
    Given a fleet whose model file is cut short
    When the command "apply --auto-approve" is run
    Then the command ends with 1 and says "cut short"
    And the queen still answers

  Scenario: A model that is damaged inside does not take its worker down silently
    Given a fleet whose model file is damaged inside
    When the command "apply --auto-approve" is run
    Then the command ends with 1 and says "chat-0"
    And the status names "chat-0" as failed, with a reason

  Scenario: The port range is used up
    Given a fleet whose worker ports are taken
    When the command "apply --auto-approve" is run
    Then the command ends with 1 and says "port"

  Scenario: A device that the machine does not have
    Given a fleet that wants the device "cuda:7"
    When the command "plan" is run
    Then the command ends with 1 and says "cuda:7"

  Scenario: More memory than there is
    Given a fleet that wants a thousand slots
    When the command "plan" is run
    Then the command ends with 1 and says "Not enough memory"

  Scenario: A token file that others can read
    Given a fleet that was not applied
    And its token file can be read by others
    When the command "plan" is run
    Then the command ends with 1 and says "chmod 600"

  Scenario: An open queen without a token is refused, and the token never shows
    Given a fleet that listens on every address
    When the command "apply --auto-approve" is run
    Then the command ends with 0 and says "Apply complete"
    And on an address that is not loopback a client without the token gets 401
    And the token is in no log, no output and no command line

  Scenario Outline: Ctrl-C in the middle, or what a CI sends to a job that it cancels
    Given a fleet whose model comes from a server that never ends
    When apply gets <signal> while it fetches the model
    Then it ends with 130 and says what was done and what was not
    And no download goes on
    When the model's server is mended
    And the command "apply --auto-approve" is run
    Then the command ends with 0 and says "Apply complete"

    Examples:
      | signal  |
      | SIGINT  |
      | SIGTERM |

  Scenario Outline: Files that are no fleet
    Given an rbee.yaml that is <what>
    When the command "validate" is run
    Then the command ends with 1 and says "<said>"

    Examples:
      | what                 | said         |
      | empty                | rbee.yaml    |
      | a directory          | directory    |
      | not UTF-8            | UTF-8        |
      | a YAML bomb          | values       |
      | misspelt             | Did you mean |
      | twice the same hive  | localhost    |
      | naming no such model | model        |
