"""What an agent knows and how it asks its model. Which step comes next is the engines' business."""
