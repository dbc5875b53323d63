Feature: Workers that only the queen starts
  `replicas: {min: 0, max: 2}`: apply brings engine and model and starts nothing; the first request does.

  Scenario: Nothing runs until it is wanted, and what then runs is as the file says
    Given a fleet whose two workers are on demand
    When it is applied again
    Then the command ends with 0 and says "2 workers on demand: chat-0, chat-1."
    And the machine has the model, the engine and no worker
    When the command "status" is run
    Then the command ends with 0 and says "on demand"
    When the command "validate" is run
    Then the command ends with 0 and says "0 to 2 processes"
    When the command "plan --detailed-exitcode" is run
    Then the command ends with 0 and says "No changes"
    And a client that keeps asking "bee-tiny" is answered again
    When the command "plan --detailed-exitcode" is run
    Then the command ends with 0 and says "No changes"
    When "context_length: 256" becomes "context_length: 300" in the file
    And it is applied again
    Then the command ends with 0 and says "its settings changed; the queen starts it when it is wanted"
    And the machine has the model, the engine and no worker
    And a client that keeps asking "bee-tiny" is answered again
    And the worker has 300 tokens of context
    When the command "worker unload chat-0" is run
    And the command "plan --detailed-exitcode" is run
    Then the command ends with 0 and says "No changes"
    When the command "destroy --auto-approve" is run
    Then the command ends with 0 and says "she starts no worker any more"
    And no process of it is left
